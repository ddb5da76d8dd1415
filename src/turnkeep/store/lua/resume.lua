-- resume: undo `pause`; what was due is due again.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once
-- USES: live record once sinks log trim save message_ids inbox
-- RETURNS: {'ok'}; or {'absent'}, {'gone'}.
-- GUARANTEE: again: nothing.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return remember(now, {'absent'}) end
if not t.paused then return remember(now, {'ok'}) end
t.paused, t.active_at = nil, now
ripen(t, p, now)
emit(t, 'resumed')
save(t, p, now)
return remember(now, {'ok'})
