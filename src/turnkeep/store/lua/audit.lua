-- audit: which shared keys of a partition are not what they should be.
-- KEYS: due ends spaces leases counters threads aging aliases sinks parked dead dead_ids dead_places redriven quarantine meta operations
-- USES: ready shared
-- RETURNS: names of keys; then when it was rebuilt last and why, or ''.
-- GUARANTEE: changes nothing. A key that is gone shows by those that speak of the same.

local PLACES = 256 -- spaces compared

local wrong = damaged_keys()
if #wrong > 0 then return {wrong, ''} end

local sums = {active = 0, listed = 0}
local counters = redis.call('HGETALL', K.counters)
for i = 1, #counters, 2 do
  local name = split(counters[i])[3]
  if sums[name] then sums[name] = sums[name] + counters[i + 1] end
end

local function compare(name, is, should_be)
  if is ~= should_be then wrong[#wrong + 1] = name end
end

compare('leases', redis.call('ZCARD', K.leases), sums.active)
compare('due', redis.call('ZCARD', K.due) + redis.call('ZCARD', K.ends), sums.listed)
compare('threads', redis.call('ZCARD', K.threads), redis.call('HLEN', K.aliases))
compare('dead', redis.call('HLEN', K.dead), redis.call('ZCARD', K.dead_ids))

-- Each space with an entry is found from both lists, not later than that entry.
local function compare_spaces(key)
  local from = '-'
  for _ = 1, PLACES do
    local entry = redis.call('ZRANGEBYLEX', key, from, '+', 'LIMIT', 0, 1)[1]
    if not entry then return end
    local tenant, queue, at = unpack(split(entry))
    local space = tenant .. '\0' .. queue
    for _, list in ipairs({list_of(), list_of(queue)}) do
      local key_of_list = list
      local bound = redis.call('ZSCORE', key_of_list, space)
      if not bound or tonumber(bound) > tonumber(at) + 0.001 then
        wrong[#wrong + 1] = 'spaces'
        return
      end
    end
    from = '(' .. space .. '\1'
  end
end

compare_spaces(K.due)
compare_spaces(K.ends)
return {wrong, redis.call('HGET', K.meta, 'rebuilt') or ''}
