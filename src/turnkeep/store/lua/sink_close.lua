-- sink_close: forget a sink, what was kept for it, and what is parked.
-- KEYS: sinks outbox parked operations
-- ARGV: now once sink
-- USES: record once sinks
-- RETURNS: 1 if it was open.

local now = moment()
local before = recall(now)
if before then return before end
redis.call('DEL', outbox_of(A.sink))
for _, position in ipairs(parked_positions(A.sink)) do
  redis.call('HDEL', K.parked, parked_field(A.sink, position))
end
return remember(now, redis.call('HDEL', K.sinks, A.sink))
