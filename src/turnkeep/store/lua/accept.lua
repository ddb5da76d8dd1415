-- accept: take messages of one thread in; each is decided by itself, all in one act.
-- KEYS: @thread @partition
-- ARGV: now policy space channel want thread_id epoch create max_inbox | id digest size on_busy window max_wait not_before flush minted body text
-- USES: live record sinks log trim save message_ids inbox accept
-- RETURNS: 'ok', then for each message {'receipt', …}, {'conflict'}, {'full', open}, {'busy'} or {'absent'}; or {'gone'}.
-- GUARANTEE: an id that is known, of an earlier thread too, stores nothing and gives its first receipt; without a receipt nothing is stored at all.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
local is_absent = not t and A.create == '0'
t = t or new_thread(now)

local max_inbox = A.max_inbox ~= '' and tonumber(A.max_inbox) or p.max_inbox
local outcomes = {'ok'}
for i = 1, ROWS do
  local message = row(i)
  local record, closing = accepted_before(t, message.id, now)
  if record then
    outcomes[i + 1] = repeated_receipt(t, record, closing, message.digest)
  else
    outcomes[i + 1] = is_absent and {'absent'} or accept_one(t, p, now, message, max_inbox)
  end
end
if t.out.is_accepted then save(t, p, now) end
return outcomes
