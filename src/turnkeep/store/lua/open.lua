-- open: the open messages of a thread: the inbox in order, then the delayed ones by time.
-- KEYS: @thread @partition
-- ARGV: now policy want
-- USES: live record sinks log trim save message_ids inbox calls turns claims accept search
-- RETURNS: {'open', {'message', …}, …}; or {'absent'}, {'gone'}.
-- GUARANTEE: changes nothing.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local reply = {'open'}
for i = 1, t.inbox do
  local m = open_at(t, i)
  reply[#reply + 1] = tell_message(t, m.id, record_of(t, m.id) or damaged('known'), nil, m, i)
end
for _, m in ipairs(t.delayed > 0 and delayed_messages(t) or {}) do
  reply[#reply + 1] = tell_message(t, m.id, record_of(t, m.id) or damaged('known'), nil, m)
end
return reply
