-- hold: give worker and lease back but not the turn, until all calls are decided or the time is over.
-- KEYS: @thread @partition
-- ARGV: now policy thread_id token expires_in published | id digest decision base output by
-- USES: live record sinks log trim save message_ids inbox calls turns claims
-- RETURNS: {'ok'}; {'gap', published}; or {'lost'}.
-- GUARANTEE: a repeat changes nothing; frees before it appends, so that a full server lets runs end.

local p, now = policy(A.policy), moment()
local t = load()
if settled(t, 'hold') then return {'ok'} end
if not is_owned(t) then return {'lost'} end
if tonumber(A.published) > t.published then return {'gap', t.published} end

local calls, all_decided = {}, true
for i = 1, ROWS do
  local call = row(i)
  if call.decision == '' then call.decision, call.output, call.by, all_decided = nil, nil, nil, false end
  calls[i] = call
end
t.frozen = true
let_go(t)
t.state, t.due, t.calls = 'held', now + A.expires_in, calls
emit(t, 'held', event_of_run(t, ',"calls":' .. calls_json(t)))
if t.stop then
  stop(t, t.stop, now)
elseif all_decided then
  t.due = now
end
leave_behind(t, {A.token, 'hold'})
free()
save(t, p, now)
return {'ok'}
