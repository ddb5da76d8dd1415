-- withdraw: take a waiting or delayed message back.
-- KEYS: @thread @partition
-- ARGV: now policy want id
-- USES: live record log trim save known inbox calls turns claims accept search withdraw
-- RETURNS: {'message', …}; or {'absent'}, {'gone'}, {'unknown'}, {'late', status}, {'frozen'}.
-- GUARANTEE: again: the same record.

local p, now = policy(A.policy), moment()
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
return tell_message(t, A.id, known_of(t, A.id, now))
