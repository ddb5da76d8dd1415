-- sink_failed: note that a parked event was not delivered.
-- KEYS: sinks parked operations
-- ARGV: now once sink position reason give_up
-- USES: record once sinks
-- RETURNS: {'count', 1 if it is there}; or {'absent'}.
-- GUARANTEE: the moment of the first failure stays.

local now = moment()
local before = recall(now)
if before then return before end
if not get_sink(A.sink) then return {'absent'} end
local entry = get_parked(A.sink, A.position)
if entry then
  entry.reason, entry.failed_at = A.reason, entry.failed_at or now
  entry.given_up = A.give_up == '1' or nil
  put_parked(A.sink, A.position, entry)
end
return remember(now, {'count', entry and 1 or 0})
