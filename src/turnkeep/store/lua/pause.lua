-- pause: no run begins until `resume`; creates the thread if need be.
-- KEYS: @thread @partition operations
-- ARGV: now policy space channel want thread_id epoch once
-- USES: live record once sinks log trim save
-- RETURNS: {'ok'}; or {'gone'}.
-- GUARANTEE: again: nothing.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t = find_or_new(p, now)
if not t then return {'gone'} end
if t.paused then return remember(now, {'ok'}) end
t.paused, t.active_at = true, now
emit(t, 'paused')
save(t, p, now)
return remember(now, {'ok'})
