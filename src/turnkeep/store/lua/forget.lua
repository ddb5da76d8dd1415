-- forget: delete a thread and everything of it, its dead letters too.
-- KEYS: @thread @partition dead dead_ids dead_places operations
-- ARGV: now policy want once force space channel
-- USES: live record once sinks log trim save message_ids inbox search dead_letters
-- RETURNS: {'ok', 1 if there was anything}; or {'gone'}, {'busy'}.
-- GUARANTEE: ids of messages stay known, the open ones as withdrawn.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end

local function close_open()
  local ids = ids_of(t, 1, t.inbox)
  for _, m in ipairs(t.delayed > 0 and delayed_messages(t) or {}) do ids[#ids + 1] = m.id end
  if #ids == 0 then return end
  local n = close_ids(t, p, now, {lo = t.closed_seq, hi = t.closed_seq, status = 'withdrawn', ids = ids})
  for _, id in ipairs(ids) do amend(t, id, 'closed', n) end
end

if t then
  if t.inbox + t.delayed > 0 and A.force ~= '1' then return {'busy'} end
  close_open()
  erase(t, p, now)
  forget_replies(K.thread)
end
local letters = discard_all(A.space, A.channel)
return remember(now, {'ok', (t or letters > 0) and 1 or 0})
