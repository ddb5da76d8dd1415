-- flush: end the window of a waiting thread now.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once
-- USES: live record once sinks log trim save message_ids inbox
-- RETURNS: {'ok', 1 if it waited}; or {'absent'}, {'gone'}.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return remember(now, {'absent'}) end
ripen(t, p, now)
local is_waiting = t.state == 'waiting'
if is_waiting then t.flushed, t.due = true, no_later(t, now) end
if is_waiting or t.out.is_changed then save(t, p, now) end
return remember(now, {'ok', is_waiting and 1 or 0})
