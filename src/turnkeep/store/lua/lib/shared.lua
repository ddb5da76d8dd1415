-- What type each shared key of a partition has.

local TYPES = {
  due = 'zset', ends = 'zset', spaces = 'zset', leases = 'zset', counters = 'hash', threads = 'zset', aging = 'zset',
  aliases = 'hash', sinks = 'hash', parked = 'hash', dead = 'hash', graves = 'zset', letters = 'zset', redriven = 'hash',
  quarantine = 'hash', meta = 'hash', operations = 'hash',
}

-- By the ends of their names in Redis, by which an operator finds them: dead letters had other words once.
local function shared_keys()
  return {due = K.due, ends = K.ends, spaces = K.spaces, leases = K.leases, counters = K.counters, threads = K.threads,
    aging = K.aging, aliases = K.aliases, sinks = K.sinks, parked = K.parked, dead = K.dead, graves = K.dead_ids,
    letters = K.dead_places, redriven = K.redriven, quarantine = K.quarantine, meta = K.meta, operations = K.operations}
end

local function has_type(key, type)
  local actual = redis.call('TYPE', key).ok
  return actual == 'none' or actual == type
end

-- What the values of a hash have to be, where a single one that makes no sense stops everybody.
local READABLE = {
  counters = function(value) return #value < 16 and value:find('^-?%d+$') end,
  meta = function(value, field) return field ~= 'incarnation' or (#value < 16 and value:find('^%d+$')) end,
  sinks = function(value)
    local is_whole, sink = pcall(cmsgpack.unpack, value)
    return is_whole and type(sink) == 'table'
  end,
}

-- Fields, or members, that nobody can read.
local function unreadable(name, key)
  local entries = {}
  if name == 'spaces' then
    for _, space in ipairs(redis.call('ZRANGE', key, 0, 255)) do
      if not space:find('%z') then entries[#entries + 1] = space end
    end
  elseif READABLE[name] then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      if not READABLE[name](all[i + 1], all[i]) then entries[#entries + 1] = all[i] end
    end
  end
  return entries
end

-- Names of the keys that somebody made something else of, or that hold what nobody can read. The lists of queues count as
-- `spaces`.
local function damaged_keys()
  local wrong = {}
  for name, key in pairs(shared_keys()) do
    if not has_type(key, TYPES[name]) or #unreadable(name, key) > 0 then wrong[#wrong + 1] = name end
  end
  if has_type(K.spaces, 'zset') then
    for _, space in ipairs(redis.call('ZRANGE', K.spaces, 0, 255)) do
      local queue = space:match('%z(.*)$')
      if queue and not has_type(K.spaces .. ':' .. queue, 'zset') then
        wrong[#wrong + 1] = 'spaces'
        break
      end
    end
  end
  table.sort(wrong)
  return wrong
end
