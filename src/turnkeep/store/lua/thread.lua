-- thread: everything about a thread but its contents.
-- KEYS: @thread @partition meta operations
-- ARGV: now policy space channel want thread_id epoch once create is_read
-- USES: live record once sinks log trim save calls view
-- RETURNS: {'thread', name, value, …}; or {'absent'}, {'gone'}.
-- GUARANTEE: with `is_read` it slides the expiry, at most once per 1 % of it; with `create` it creates what is missing.

local p, now = policy(A.policy), moment()
local before = A.create == '1' and recall(now, K.thread)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then
  if A.create == '0' then return {'absent'} end
  t = new_thread(now)
end
if A.is_read == '1' then slide(t, p, now) end
return A.create == '1' and remember(now, tell_thread(t), K.thread) or tell_thread(t)
