-- Sinks of a partition, by name: {position, owner, until_, tenant, queue, finals, lost, lost_at}. Each has an outbox of its
-- own, a stream in the slot of the partition, and at most 100000 events in it; the oldest go first.
--
-- What is parked is in one hash, by sink and position: {space, channel, thread, epoch, frame, reason, failed_at, given_up}.
-- SELDOM: send

local FINAL = {completed = true, dead = true}
local OUTBOX, SLACK = 100000, 64

local function read_sink(raw)
  local is_whole, sink = pcall(cmsgpack.unpack, raw)
  if not is_whole or type(sink) ~= 'table' then error('DAMAGED sinks', 0) end
  return sink
end

local function get_sink(name)
  local raw = redis.call('HGET', K.sinks, name)
  return raw and read_sink(raw)
end

local function put_sink(name, sink)
  return redis.call('HSET', K.sinks, name, cmsgpack.pack(sink))
end

local some_sinks

-- Whether a sink is open in any partition of this script, which is asked once for all of them: mostly there is none.
local function has_sinks()
  if some_sinks == nil then some_sinks = redis.call('EXISTS', ALL.sinks) > 0 end
  return some_sinks
end

-- Read once for all threads of a script.
local sinks_met = {}

local function open_sinks()
  local key = K.sinks
  if sinks_met[key] then return sinks_met[key] end
  local sinks, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do sinks[all[i]] = read_sink(all[i + 1]) end
  sinks_met[key] = sinks
  return sinks
end

local function outbox_of(name)
  return K.outbox .. ':' .. name
end

-- Whether an event is for a sink; a member that is absent or empty selects all.
local function wants(sink, space, kind)
  if sink.finals and not FINAL[kind] then return false end
  if (sink.tenant or '') == '' and (sink.queue or '') == '' then return true end
  local tenant, queue = space:match('^(.-)%z(.*)$')
  return ((sink.tenant or '') == '' or sink.tenant == tenant) and ((sink.queue or '') == '' or sink.queue == queue)
end

local function lose(name, sink, count, now)
  sink.lost, sink.lost_at = (sink.lost or 0) + count, now
  put_sink(name, sink)
end

-- The epoch is kept whole, with the incarnation of the partition: an id made of it stays the same on another server.
local function send(name, sink, t, events, frames, now)
  local key, incarnation = outbox_of(name), nil
  for i, event in ipairs(events) do
    if wants(sink, t.space, event.kind) then
      incarnation = incarnation or redis.call('HGET', K.meta, 'incarnation') or '0'
      redis.call('XADD', key, '*', 'space', t.space, 'channel', t.channel, 'thread', t.thread_id, 'epoch', t.epoch,
        'incarnation', incarnation, 'frame', frames[i])
    end
  end
  if incarnation and redis.call('XLEN', key) > OUTBOX + SLACK then
    lose(name, sink, redis.call('XTRIM', key, 'MAXLEN', OUTBOX), now)
  end
end

-- A stream id as text that sorts like it, and the text as an id.
local function position_of(id)
  local time, place = id:match('^(%d+)-(%d+)$')
  return string.format('%015.0f-%010.0f', tonumber(time), tonumber(place))
end

local function id_of(position)
  local time, place = position:match('^(%d+)-(%d+)$')
  if not time then return '0-0' end
  return string.format('%.0f-%.0f', tonumber(time), tonumber(place))
end

local function by_name(fields)
  local entry = {}
  for i = 1, #fields, 2 do entry[fields[i]] = fields[i + 1] end
  return entry
end

-- ---------------------------------------------------------------- parked

local function parked_field(name, position)
  return name .. '\0' .. position
end

-- The positions of all that is parked of a sink, in order.
local function parked_positions(name)
  local positions, prefix = {}, name .. '\0'
  for _, field in ipairs(redis.call('HKEYS', K.parked)) do
    if field:sub(1, #prefix) == prefix then positions[#positions + 1] = field:sub(#prefix + 1) end
  end
  table.sort(positions)
  return positions
end

local function get_parked(name, position)
  local raw = redis.call('HGET', K.parked, parked_field(name, position))
  return raw and cmsgpack.unpack(raw)
end

local function put_parked(name, position, entry)
  redis.call('HSET', K.parked, parked_field(name, position), cmsgpack.pack(entry))
end
