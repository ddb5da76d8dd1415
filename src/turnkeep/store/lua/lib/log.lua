-- The event log of a thread: a stream with the offset as entry id, told to followers and kept for the sinks that want it.
-- Fields of an entry: k kind, a time, m JSON of the other members, x text.

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

-- At the moment of the script, as the caller has written it.
local function write_events(t, events, now)
  local at, frames, sinks = A.now, {}, open_sinks()
  for i, event in ipairs(events) do frames[i] = frame(event, at) end
  for name, sink in pairs(sinks) do send(name, sink, t, events, frames, now) end
  for _, event in ipairs(events) do
    redis.call('XADD', K.log, string.format('%d-0', event.offset), 'k', event.kind, 'a', at, 'm', event.members,
      'x', event.text)
  end
  redis.pcall(PUBLISH, K.channel, t.epoch .. '\n' .. table.concat(frames))
  t.untrimmed = t.untrimmed + #events
end
