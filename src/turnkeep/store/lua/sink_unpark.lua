-- sink_unpark: drop parked events.
-- KEYS: sinks parked operations
-- ARGV: now once sink | place
-- USES: record once sinks
-- RETURNS: {'count', how many there were}; or {'absent'}.

local now = moment()
local before = recall(now)
if before then return before end
if not get_sink(A.sink) then return {'absent'} end
local count = 0
for i = 1, ROWS do
  local place = values(i)
  count = count + redis.call('HDEL', K.parked, parked_field(A.sink, place))
end
return remember(now, {'count', count})
