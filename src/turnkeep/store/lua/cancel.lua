-- cancel: stop the run in progress; drop what waits behind it, if asked.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once drop_inbox
-- USES: live record once sinks log trim save message_ids inbox calls turns claims accept search withdraw
-- RETURNS: {'ok', 1 if there is a run to stop}; or {'absent'}, {'gone'}.
-- GUARANTEE: frees before it appends, so that it works on a full server.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return remember(now, {'absent'}) end
ripen(t, p, now)
local is_stopping = t.state == 'leased' or t.state == 'held' or (t.state == 'retry' and t.batch > 0)
if is_stopping then stop(t, 'cancel', now) end
if A.drop_inbox == '1' then
  local waiting = {}
  for i = t.batch + 1, t.inbox do
    local m = open_at(t, i)
    if m.steer ~= 'offered' then waiting[#waiting + 1] = m end
  end
  for _, m in ipairs(t.delayed > 0 and delayed_messages(t) or {}) do waiting[#waiting + 1] = m end
  drop(t, p, now, waiting)
end
free()
save(t, p, now)
return remember(now, {'ok', is_stopping and 1 or 0})
