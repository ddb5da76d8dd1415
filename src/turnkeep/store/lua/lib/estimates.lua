-- Estimates that all partitions share: which endpoints are away, and how much of a pace is left. They spare requests; what
-- somebody damaged of them is dropped and begins anew, because every run asks them.

-- The open circuit of an endpoint, if there is one.
local function circuit_of(endpoint)
  local raw = redis.pcall('HGET', K.circuits, endpoint)
  if type(raw) == 'table' then
    redis.call('DEL', K.circuits)
    return nil
  end
  if not raw then return nil end
  local is_whole, circuit = pcall(unseal, raw, 'circuit')
  if is_whole then return circuit end
  redis.call('HDEL', K.circuits, endpoint)
  return nil
end

local function endpoints()
  local fields = redis.pcall('HKEYS', K.circuits)
  if not fields.err then return fields end
  redis.call('DEL', K.circuits)
  return {}
end

-- The buckets of a pace and the end of its slow-down, by name. Their key has no expiry, which would follow whoever sets the
-- clock of the server: there is one for each endpoint.
local function read_pace()
  local fields, pace = redis.pcall('HGETALL', K.pace), {}
  if fields.err then
    redis.call('DEL', K.pace)
    return pace
  end
  for i = 1, #fields, 2 do pace[fields[i]] = tonumber(fields[i + 1]) end
  redis.call('PERSIST', K.pace)
  return pace
end
