-- sweep: the runs whose reservation is old, oldest first; forgets accounts whose time is over.
-- KEYS: accounts reservations
-- ARGV: now older_than
-- USES: record ledger
-- RETURNS: run ids.
-- GUARANTEE: reservations stay until they are settled.

local now, old, ids = moment(), {}, {}
local reservations = redis.call('HGETALL', K.reservations)
for i = 1, #reservations, 2 do
  local at = unseal(reservations[i + 1], 'reservation').at
  if at <= now - A.older_than then old[#old + 1] = {at, reservations[i]} end
end
table.sort(old, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
for i, one in ipairs(old) do ids[i] = one[2] end
local accounts = redis.call('HGETALL', K.accounts)
for i = 1, #accounts, 2 do
  if unseal(accounts[i + 1], 'account').until_ <= now then redis.call('HDEL', K.accounts, accounts[i]) end
end
return ids
