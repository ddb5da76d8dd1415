-- Sinks of a partition: {since, position, owner, until_} by name; the outbox keeps what the slowest has not delivered.

local function get_sink(name)
  local raw = redis.call('HGET', K.sinks, name)
  return raw and cmsgpack.unpack(raw)
end

local function put_sink(name, sink)
  return redis.call('HSET', K.sinks, name, cmsgpack.pack(sink))
end

-- A stream id as text that sorts like it.
local function position_of(id)
  local time, place = id:match('^(%d+)-(%d+)$')
  return string.format('%015.0f-%010.0f', tonumber(time), tonumber(place))
end

-- The position of the newest event that was ever in the outbox.
local function last_position()
  if redis.call('EXISTS', K.outbox) == 0 then return position_of('0-0') end
  local info = redis.call('XINFO', 'STREAM', K.outbox)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return position_of(info[i + 1]) end
  end
end

-- Drop what every sink has delivered; everything, when there is no sink.
local function forget_delivered()
  local all, done = redis.call('HVALS', K.sinks), nil
  for _, raw in ipairs(all) do
    local sink = cmsgpack.unpack(raw)
    local position = sink.position > sink.since and sink.position or sink.since
    if not done or position < done then done = position end
  end
  if not done then return redis.call('XTRIM', K.outbox, 'MAXLEN', 0) end
  local time, place = done:match('^(%d+)-(%d+)$')
  redis.call('XTRIM', K.outbox, 'MINID', string.format('%.0f-%.0f', tonumber(time), tonumber(place) + 1))
end
