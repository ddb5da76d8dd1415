-- settle: replace the reservation of a run by what was spent.
-- KEYS: accounts reservations
-- ARGV: now run_id amount
-- USES: record ledger
-- RETURNS: 1 if there was a reservation.
-- GUARANTEE: a repeat changes nothing.

local now = moment()
local raw = redis.call('HGET', K.reservations, A.run_id)
if not raw then return 0 end
local reserved = unseal(raw, 'reservation')
redis.call('HDEL', K.reservations, A.run_id)
for _, one in ipairs(reserved.accounts) do
  local found = account(one[1], now)
  found.reserved = math.max(0, found.reserved - reserved.amount)
  found.settled = found.settled + A.amount
  keep(one[1], found, now + one[2])
end
return 1
