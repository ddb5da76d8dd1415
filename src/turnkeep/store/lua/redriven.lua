-- redriven: the receipt of a dead letter that was redriven before.
-- KEYS: redriven
-- ARGV: now dead_id
-- USES: record
-- RETURNS: {message id, {'receipt', …}}; or nothing.
-- GUARANTEE: changes nothing.

local raw = redis.call('HGET', K.redriven, A.dead_id)
local left = raw and unseal(raw, 'redriven')
if not left or left.until_ <= moment() then return false end
return {left.message_id, left.receipt}
