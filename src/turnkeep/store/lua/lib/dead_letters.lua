-- Dead letters: `dead` holds them by id, `dead_ids` their ids in order, `dead_places` where they are from: space, channel
-- and id, and space, thread id and id, joined by NUL, for they outlive their thread.

local function places_of(about, id)
  return about.space .. '\0' .. about.channel .. '\0' .. id, about.space .. '\0' .. about.thread_id .. '\0' .. id
end

local function index_dead_letter(about, id)
  local by_channel, by_thread = places_of(about, id)
  redis.call('ZADD', K.dead_places, 0, by_channel, 0, by_thread)
end

-- What a letter says of itself, before its message; nothing when it is damaged.
local function about_dead_letter(raw)
  local is_whole, text = pcall(unseal_text, raw, 'letter')
  return is_whole and cjson.decode(text:match('^[^\n]*')) or nil
end

local function discard(space, id)
  local about = about_dead_letter(redis.call('HGET', K.dead, id))
  local removed = redis.call('HDEL', K.dead, id)
  if removed == 1 then redis.call('HINCRBY', K.counters, space .. '\0dead', -1) end
  redis.call('ZREM', K.dead_ids, id)
  if about then redis.call('ZREM', K.dead_places, places_of(about, id)) end
  return removed
end

-- All letters of a channel, or of a thread by its id; how many.
local function discard_all(space, channel)
  local place, removed = space .. '\0' .. channel .. '\0', 0
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', K.dead_places, '[' .. place, '(' .. place:sub(1, -2) .. '\1')) do
    removed = removed + discard(space, entry:sub(#place + 1))
    redis.call('ZREM', K.dead_places, entry)
  end
  return removed
end
