-- resume: undo `pause`; what was due is due again.
-- KEYS: @thread @partition
-- ARGV: now policy want
-- USES: live record log trim save known inbox
-- RETURNS: {'ok'}; or {'absent'}, {'gone'}.
-- GUARANTEE: again: nothing.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
if not t.paused then return {'ok'} end
t.paused, t.active_at = nil, now
ripen(t, p, now)
emit(t, 'resumed')
save(t, p, now)
return {'ok'}
