-- compact: replace all turns up to one by a summary.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once through_turn summary
-- USES: live record once sinks log trim history save
-- RETURNS: {'ok'}; or {'absent'}, {'gone'}.
-- GUARANTEE: again: the same.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local gone = 0
while true do
  local raw = redis.call('LINDEX', K.history, gone)
  local turn = raw and read_turn(raw)
  if not turn or turn.turn > tonumber(A.through_turn) then break end
  t.items, t.bytes, gone = t.items - turn.items, t.bytes - turn.bytes, gone + 1
end
t.active_at, t.edits, t.transcript_at = now, t.edits + 1, now
t.out.forgotten, t.out.is_recounted = gone > 0 and gone or nil, true
t.out.fields = {'summary', A.summary}
save(t, p, now)
return remember(now, {'ok'})
