-- Accounts of one tenant: {settled, reserved, until_} by name. Amounts are whole numbers.

local function account(name, now)
  local raw = redis.call('HGET', K.accounts, name)
  local found = raw and unseal(raw, 'account')
  return found and found.until_ > now and found or {settled = 0, reserved = 0}
end

local function keep(name, found, until_)
  found.until_ = until_
  redis.call('HSET', K.accounts, name, seal(found))
end
