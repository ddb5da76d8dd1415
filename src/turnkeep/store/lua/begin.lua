-- begin: accept messages and claim their thread in one act, without a window.
-- KEYS: @thread @partition
-- ARGV: now policy space channel want thread_id epoch owner lease token run_id | id digest size on_busy window max_wait not_before flush minted body text
-- USES: live record sinks log trim save message_ids inbox calls turns claims accept
-- RETURNS: {'claim', …}; or {'busy'}, {'crowded'}, {'full', open}, {'conflict', i}, {'gone'}.
-- GUARANTEE: with the token of the claim that is valid now, that claim again; a refusal stores nothing.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if t and t.state == 'leased' and t.token == A.token then return tell_claim(t) end
t = t or new_thread(now)
ripen(t, p, now)
if is_busy(t) or t.paused then return {'busy'} end
for i = 1, ROWS do
  turn_to(i)
  if accepted_before(t, A.id, now) then return {'conflict', i} end
  local outcome = accept_one(t, p, now, p.max_inbox, true)
  if outcome[1] ~= 'receipt' then return outcome end
end
if batch_size(t, p) < t.inbox then return {'crowded'} end
lease_thread(t, p, now, {owner = A.owner, lease = A.lease, token = A.token, run_id = A.run_id})
save(t, p, now)
return tell_claim(t)
