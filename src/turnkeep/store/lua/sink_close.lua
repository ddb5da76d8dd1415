-- sink_close: forget a sink and what was kept for it alone.
-- KEYS: sinks outbox operations
-- ARGV: now once sink
-- USES: record once sinks
-- RETURNS: 1 if it was open.

local now = moment()
local before = recall(now)
if before then return before end
local removed = redis.call('HDEL', K.sinks, A.sink)
forget_delivered()
return remember(now, removed)
