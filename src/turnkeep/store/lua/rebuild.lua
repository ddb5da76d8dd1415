-- rebuild: make the shared keys of a partition again from its threads, in one act.
-- KEYS: due ends spaces leases counters threads aging aliases sinks parked dead dead_ids dead_places redriven quarantine meta operations thread_list
-- ARGV: now reason
-- USES: live record ready dead_letters shared
-- RETURNS: names of the keys that were thrown away.
-- GUARANTEE: again: the same. `thread_list` names the keys of the threads. What is right stays: entries too many correct
-- themselves where they are met. Totals of what was answered and failed are kept unless they were thrown away.

local now, lost = moment(), damaged_keys()
redis.call('HDEL', K.thread_list, '') -- an error here changes nothing yet
for name, key in pairs(shared_keys()) do
  if not has_type(key, TYPES[name]) then redis.call('DEL', key) end
  for _, entry in ipairs(unreadable(name, key)) do redis.call(name == 'spaces' and 'ZREM' or 'HDEL', key, entry) end
end

local counted = {}
local function count_in(space, name, change)
  local field = space .. '\0' .. name
  counted[field] = (counted[field] or 0) + change
end

local function list(t)
  local key_of_index = t.indexed[1] == 'due' and K.due or K.ends
  redis.call('ZADD', key_of_index, 0, t.space .. '\0' .. t.indexed[2] .. '\0' .. t.channel)
  for _, key in ipairs({list_of(), list_of(split(t.space)[2])}) do
    if not has_type(key, 'zset') then redis.call('DEL', key) end
    redis.call('ZADD', key, 'LT', tonumber(t.indexed[2]), t.space)
  end
  count_in(t.space, 'listed', 1)
end

local function take_in(key)
  local raw = has_type(key, 'hash') and redis.call('HGET', key, 'head')
  local is_whole, t = pcall(unseal, raw or nil, 'head')
  if not is_whole then return end
  t = with_defaults(t)
  local who = t.space .. '\0' .. t.channel
  redis.call('ZADD', K.threads, 0, who)
  redis.call('HSET', K.aliases, t.space .. '\0' .. t.thread_id, t.channel)
  if not redis.call('ZSCORE', K.aging, who) then redis.call('ZADD', K.aging, now, who) end
  if t.indexed and redis.call('HEXISTS', K.quarantine, who) == 0 then list(t) end
  if t.token then
    redis.call('ZADD', K.leases, 0, table.concat({t.owner, t.token, t.space, t.channel}, '\0'))
  end
  local place = t.state == 'leased' and 'active' or t.paused and 'paused' or t.state == 'held' and 'held'
  if place then count_in(t.space, place, 1) end
  count_in(t.space, 'open', t.inbox + t.delayed)
end

-- What an index says that no thread does is dropped, so that both can be compared again.
for _, key in ipairs({K.due, K.ends, K.leases, K.threads, K.aliases, K.dead_ids, K.dead_places}) do redis.call('DEL', key) end
for _, key in ipairs(redis.call('HKEYS', K.thread_list)) do take_in(key) end
for _, id in ipairs(redis.call('HKEYS', K.dead)) do
  local about = about_dead_letter(redis.call('HGET', K.dead, id))
  redis.call('ZADD', K.dead_ids, 0, id)
  if about then
    index_dead_letter(about, id)
    count_in(about.space, 'dead', 1)
  end
end

for _, field in ipairs(redis.call('HKEYS', K.counters)) do
  local name = split(field)[3]
  if name ~= 'completed' and name ~= 'failed' then redis.call('HDEL', K.counters, field) end
end
for field, number in pairs(counted) do
  if number ~= 0 then redis.call('HSET', K.counters, field, number) end
end
if redis.call('HEXISTS', K.meta, 'incarnation') == 0 then
  redis.call('HSET', K.meta, 'incarnation', string.format('%.0f', now)) -- higher than any before: epochs change
end
redis.call('HSET', K.meta, 'rebuilt', exact(now) .. ' ' .. A.reason)
redis.call('DEL', K.thread_list)
return lost
