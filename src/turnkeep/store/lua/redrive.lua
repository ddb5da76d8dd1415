-- redrive: accept a dead letter again under its id, at the end of the inbox.
-- KEYS: @thread @partition dead dead_ids dead_places redriven
-- ARGV: now policy space channel want thread_id epoch dead_id | id digest size on_busy window max_wait not_before flush minted body text
-- USES: live record sinks log trim save message_ids inbox accept dead_letters
-- RETURNS: {'receipt', …}; or {'absent'} (no such letter), {'conflict'} (a message of that id is open).
-- GUARANTEE: a repeat gives the same receipt.

local p, now = policy(A.policy), moment()
local before = redis.call('HGET', K.redriven, A.dead_id)
if before then
  local left = unseal(before, 'redriven')
  if left.until_ > now then return left.receipt end
end
redis.call('ZCARD', K.dead_ids) -- a damaged one is met before anything is written
redis.call('ZCARD', K.dead_places)
if redis.call('HEXISTS', K.dead, A.dead_id) == 0 then return {'absent'} end
local t = find_or_new(p, now)
turn_to(1)
local record, closing = accepted_before(t, A.id, now)
if record and not closing then return {'conflict'} end
local outcome = accept_one(t, p, now, math.huge)
if record then t.out.known[A.id].digest = record.digest end
redis.call('HSET', K.redriven, A.dead_id, seal({message_id = A.id, receipt = outcome, until_ = now + p.dedupe}))
save(t, p, now)
discard(t.space, A.dead_id)
return outcome
