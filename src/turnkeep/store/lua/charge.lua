-- charge: write down how much tenants were served: each so many times, one after the other.
-- KEYS: served
-- ARGV: | tenant weight count
-- USES: record
-- RETURNS: 'ok'.
-- GUARANTEE: one that comes back after a silence starts where the last one served began (field '').

local PRUNED_AT = 256

local function share_of(field)
  return tonumber(redis.call('HGET', K.served, field)) or 0
end

local floor = share_of('')
for i = 1, ROWS do
  local one = row(i)
  local start = math.max(share_of(one.tenant), floor)
  redis.call('HSET', K.served, one.tenant, exact(start + one.count / one.weight))
  floor = start + (one.count - 1) / one.weight
end
redis.call('HSET', K.served, '', exact(floor))

if redis.call('HLEN', K.served) > PRUNED_AT then
  local served = redis.call('HGETALL', K.served)
  for i = 1, #served, 2 do
    if served[i] ~= '' and (tonumber(served[i + 1]) or 0) <= floor then redis.call('HDEL', K.served, served[i]) end
  end
end
return 'ok'
