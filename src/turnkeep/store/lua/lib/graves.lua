-- Dead letters: `dead` holds them by id, `graves` their ids in order, the thread's hash the ids of its own (`x:<id>`).

local function discard(space, id)
  local removed = redis.call('HDEL', K.dead, id)
  if removed == 1 then redis.call('HINCRBY', K.counters, space .. '\0dead', -1) end
  redis.call('ZREM', K.graves, id)
  redis.call('HDEL', K.thread, 'x:' .. id)
  return removed
end

local function discard_all(t)
  for _, field in ipairs(redis.call('HKEYS', K.thread)) do
    if field:sub(1, 2) == 'x:' then discard(t.space, field:sub(3)) end
  end
end
