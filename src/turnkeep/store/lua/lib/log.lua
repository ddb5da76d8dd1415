-- The event log of a thread: a stream with the offset as entry id, told to followers and kept for the sinks that want it.
-- An entry has one field, f, which is the frame of the event: it is told as it is kept. Layout 3 had four: k kind, a time,
-- m JSON of the other members, x text.

-- Append to the log: the only place that gives offsets.
local function emit(t, kind, members, text)
  t.top = t.top + 1
  t.out.events[#t.out.events + 1] = {offset = t.top, kind = kind, members = members or '{}', text = text or ''}
end

-- An event for followers and sinks: "offset kind time length-of-members length-of-text", a newline, members, text.
local function frame(event, at)
  local head = string.format('%d %s %s %d %d\n', event.offset, event.kind, at, #event.members, #event.text)
  return head .. event.members .. event.text
end

-- The frame that an entry of the log holds.
local function frame_in(entry)
  local f, offset = entry[2], entry[1]:match('^%d+')
  if f[1] == 'f' then return f[2]:match('^%d+') == offset and f[2] or damaged('log') end
  if not f[8] then damaged('log') end
  return frame({offset = tonumber(offset), kind = f[2], members = f[6], text = f[8]}, f[4])
end

-- Offset, kind, time, members and text of a frame.
local function parts_of(frame)
  local offset, kind, at, members, text, place = frame:match('^(%d+) (%S+) (%S+) (%d+) (%d+)\n()')
  if not place then damaged('log') end
  local border = place + members
  return tonumber(offset), kind, at, frame:sub(place, border - 1), frame:sub(border, border + text - 1)
end

-- At the moment of the script, as the caller has written it.
local function write_events(t, events, now)
  local at, frames = A.now, {}
  for i, event in ipairs(events) do frames[i] = frame(event, at) end
  for name, sink in pairs(has_sinks() and open_sinks() or {}) do send(name, sink, t, events, frames, now) end
  for i, event in ipairs(events) do redis.call('XADD', K.log, exact(event.offset), 'f', frames[i]) end
  redis.pcall(PUBLISH, K.channel, t.epoch .. '\n' .. (frames[2] and table.concat(frames) or frames[1]))
  t.untrimmed = t.untrimmed + #events
end
