-- withdraw: take a waiting or delayed message back.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once id
-- USES: live record once sinks log trim save message_ids inbox calls turns claims accept search withdraw
-- RETURNS: {'message', …}; or {'absent'}, {'gone'}, {'unknown'}, {'late', status}, {'frozen'}.
-- GUARANTEE: again: the same record.

local p, now = policy(A.policy), moment()
local before = recall(now, K.thread)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local m, refusal = unfrozen(t, p, now, A.id)
if m then
  drop(t, p, now, {m})
  save(t, p, now)
elseif refusal[2] ~= 'withdrawn' then
  return refusal
end
local record, closing = known_of(t, A.id, now)
return remember(now, tell_message(t, A.id, record, closing), K.thread)
