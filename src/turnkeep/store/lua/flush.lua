-- flush: end the window of a waiting thread now.
-- KEYS: @thread @partition
-- ARGV: now policy want
-- USES: live record log trim save known inbox
-- RETURNS: {'ok', 1 if it waited}; or {'absent'}, {'gone'}.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
ripen(t, p, now)
local is_waiting = t.state == 'waiting'
if is_waiting then t.flushed, t.due = true, no_later(t, now) end
if is_waiting or t.out.is_changed then save(t, p, now) end
return {'ok', is_waiting and 1 or 0}
