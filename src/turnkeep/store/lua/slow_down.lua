-- slow_down: grant no request of a key for so long.
-- KEYS: pace operations
-- ARGV: now once seconds
-- USES: record once estimates
-- RETURNS: 'ok'.
-- GUARANTEE: never shortens.

local now = moment()
local before = recall(now)
if before then return before end
local at = math.max(read_pace().slow_until or 0, now + A.seconds)
redis.call('HDEL', K.pace, '') -- frees, so that a full server lets runs go on
redis.call('HSET', K.pace, 'slow_until', exact(at))
return remember(now, 'ok')
