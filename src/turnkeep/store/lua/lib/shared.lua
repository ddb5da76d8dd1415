-- What type each shared key of a partition has.

local TYPES = {
  due = 'zset', ends = 'zset', spaces = 'zset', leases = 'zset', counters = 'hash', threads = 'zset', aging = 'zset',
  aliases = 'hash', sinks = 'hash', parked = 'hash', dead = 'hash', graves = 'zset', letters = 'zset', redriven = 'hash',
  quarantine = 'hash', meta = 'hash', operations = 'hash',
}

local function shared_keys()
  return {due = K.due, ends = K.ends, spaces = K.spaces, leases = K.leases, counters = K.counters, threads = K.threads,
    aging = K.aging, aliases = K.aliases, sinks = K.sinks, parked = K.parked, dead = K.dead, graves = K.graves,
    letters = K.letters, redriven = K.redriven, quarantine = K.quarantine, meta = K.meta, operations = K.operations}
end

local function has_type(key, type)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == type
end

-- Names of the keys that somebody made something else of. The lists of queues count as `spaces`.
local function wrong_types()
  local wrong = {}
  for name, key in pairs(shared_keys()) do
    if not has_type(key, TYPES[name]) then wrong[#wrong + 1] = name end
  end
  if has_type(K.spaces, 'zset') then
    for _, space in ipairs(redis.call('ZRANGE', K.spaces, 0, 255)) do
      local key = K.spaces .. ':' .. space:match('%z(.*)$')
      if not has_type(key, 'zset') then
        wrong[#wrong + 1] = 'spaces'
        break
      end
    end
  end
  table.sort(wrong)
  return wrong
end
