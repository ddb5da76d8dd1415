-- sink_redrive: try parked events again as if they had never failed.
-- KEYS: sinks parked operations
-- ARGV: now once sink | place
-- USES: record once sinks
-- RETURNS: {'count', how many there are}; or {'absent'}.

local now = moment()
local before = recall(now)
if before then return before end
if not get_sink(A.sink) then return {'absent'} end
local count = 0
for i = 1, ROWS do
  local place = values(i)
  local entry = get_parked(A.sink, place)
  if entry then
    entry.reason, entry.failed_at, entry.given_up = '', nil, nil
    put_parked(A.sink, place, entry)
    count = count + 1
  end
end
return remember(now, {'count', count})
