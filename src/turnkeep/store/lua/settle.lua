-- settle: replace the reservation of a run by what was spent.
-- KEYS: accounts reservations operations
-- ARGV: now once run_id amount
-- USES: record once ledger
-- RETURNS: 1 if there was a reservation.
-- GUARANTEE: a repeat changes nothing. Without an amount what was reserved counts as spent.

local now = moment()
local before = recall(now)
if before then return before end
local raw = redis.call('HGET', K.reservations, A.run_id)
if not raw then return remember(now, 0) end
local reserved = unseal(raw, 'reservation')
local amount = tonumber(A.amount) or reserved.amount
redis.call('HDEL', K.reservations, A.run_id)
for _, one in ipairs(reserved.accounts) do
  local sums = account(one[1], now)
  sums.reserved = math.max(0, sums.reserved - reserved.amount)
  sums.settled = sums.settled + amount
  keep(one[1], sums, now + one[2])
end
return remember(now, 1)
