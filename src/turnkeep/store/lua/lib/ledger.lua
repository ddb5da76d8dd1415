-- Accounts of one tenant: {settled, reserved, until_} by name. Amounts are whole numbers.

local function account(name, now)
  local raw = redis.call('HGET', K.accounts, name)
  local sums = raw and unseal(raw, 'account')
  return sums and sums.until_ > now and sums or {settled = 0, reserved = 0}
end

local function keep(name, sums, until_)
  sums.until_ = until_
  redis.call('HSET', K.accounts, name, seal(sums))
end
