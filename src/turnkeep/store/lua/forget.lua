-- forget: delete a thread and everything of it, its dead letters too.
-- KEYS: @thread @partition dead graves operations
-- ARGV: now policy want once force
-- USES: live record once sinks log trim save graves
-- RETURNS: {'ok', 1 if there was one}; or {'gone'}, {'busy'}.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return remember(now, {'ok', 0}) end
if t.inbox + t.delayed > 0 and A.force ~= '1' then return {'busy'} end
discard_all(t)
erase(t)
return remember(now, {'ok', 1})
