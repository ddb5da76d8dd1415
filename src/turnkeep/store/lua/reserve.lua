-- reserve: reserve an amount in all accounts or in none.
-- KEYS: accounts reservations operations
-- ARGV: now once run_id amount | account limit keep
-- USES: record once ledger
-- RETURNS: {'granted'}, {'waits', account} or {'refused', account}.
-- GUARANTEE: again for the same run: granted, nothing changes.

local now, amount = moment(), tonumber(A.amount)
local before = recall(now)
if before then return before end
if redis.call('HEXISTS', K.reservations, A.run_id) == 1 then return remember(now, {'granted'}) end
local rows, sums = {}, {}
for i = 1, ROWS do
  rows[i] = row(i)
  sums[i] = account(rows[i].account, now)
end
for i, one in ipairs(rows) do
  if sums[i].settled + amount > tonumber(one.limit) then return remember(now, {'refused', one.account}) end
end
for i, one in ipairs(rows) do
  if sums[i].settled + sums[i].reserved + amount > tonumber(one.limit) then return remember(now, {'waits', one.account}) end
end
redis.call('HDEL', K.reservations, '') -- frees, so that a full server lets runs go on
for i, one in ipairs(rows) do
  sums[i].reserved = sums[i].reserved + amount
  keep(one.account, sums[i], now + one.keep)
  rows[i] = {one.account, tonumber(one.keep)}
end
redis.call('HSET', K.reservations, A.run_id, seal({at = now, amount = amount, accounts = rows}))
return remember(now, {'granted'})
