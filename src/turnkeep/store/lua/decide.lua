-- decide: decide a held call, once; the last decision makes the thread due.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once id digest verdict output by
-- USES: live record once sinks log trim save message_ids inbox calls turns claims
-- RETURNS: {'call', JSON}; or {'absent'}, {'gone'}, {'unknown'}, {'changed', digest}, {'decided', how}, {'late'},
--   {'unfit', kind}.
-- GUARANTEE: the same decision again gives the same answer and changes nothing.

local p, now = policy(A.policy), moment()
local before = recall(now, K.thread)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end

local call, all_decided
for _, one in ipairs(t.calls or {}) do
  if one.id == A.id then call = call or one end
end
if not call then return {'unknown'} end
if call.digest ~= A.digest then return {'changed', call.digest} end
if call.decision then
  if call.decision == A.verdict and (call.output or '""') == A.output then
    return remember(now, {'call', call_json(call)}, K.thread)
  end
  return {'decided', call.decision}
end
-- Members of a JSON object that stand in a text inside of it have their quotes escaped, so they are not found.
local kind = call.base:find('"kind":"output"', 1, true) and 'output' or 'approval'
if A.verdict == (kind == 'output' and 'approved' or 'output') then return {'unfit', kind} end
if t.state ~= 'held' then return {'late'} end

call.decision, call.output, call.by, call.decided_at, all_decided = A.verdict, A.output, A.by, now, true
local run = t.run_id and ',"run_id":' .. quote(t.run_id) or ''
emit(t, 'decided', '{"message_ids":' .. ids_json(ids_of(t, 1, t.batch)) .. run .. ',"calls":[' .. call_json(call) .. ']}')
for _, one in ipairs(t.calls) do all_decided = all_decided and one.decision ~= nil end
if all_decided then t.due = no_later(t, now) end
save(t, p, now)
return remember(now, {'call', call_json(call)}, K.thread)
