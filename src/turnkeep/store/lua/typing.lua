-- typing: move the sliding end of the window to now + window, never beyond max_wait.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once
-- USES: live record once sinks log trim save message_ids inbox
-- RETURNS: {'ok', seconds until due or ''}; or {'absent'}, {'gone'}.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return remember(now, {'absent'}) end
ripen(t, p, now)
local left
if t.state == 'waiting' and t.due then
  t.typed_at = now
  t.due = window_end(t, p, now)
  left = math.max(0, t.due - now)
end
if left or t.out.is_changed then save(t, p, now) end
return remember(now, {'ok', exact(left)})
