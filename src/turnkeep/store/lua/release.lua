-- release: give the claim back without using an attempt.
-- KEYS: @thread @partition
-- ARGV: now policy thread_id token delay fault
-- USES: live record sinks log trim save message_ids inbox calls turns claims
-- RETURNS: {'ok'}; or {'lost'}.
-- GUARANTEE: a repeat changes nothing; frees before it appends, so that a full server lets runs end.

local p, now = policy(A.policy), moment()
local t = load()
if settled(t, 'release') then return {'ok'} end
if not is_owned(t) then return {'lost'} end
if A.fault ~= '' then emit(t, 'waiting', event_of_run(t, ',"error":' .. A.fault)) end
let_go(t)
t.due = t.stop and now or now + A.delay
leave_behind(t, {A.token, 'release'})
free()
save(t, p, now)
return {'ok'}
