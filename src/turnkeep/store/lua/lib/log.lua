-- The event log of a thread: a stream with the offset as entry id, told to followers and kept for open sinks, which
-- have 100000 events of a partition waiting at most; the oldest go first.
-- Fields of an entry: k kind, a time, m JSON of the other members, x text.

-- Append to the log: the only place that gives offsets.
local function emit(t, kind, members, text)
  t.top = t.top + 1
  t.out.events[#t.out.events + 1] = {offset = t.top, kind = kind, members = members or '{}', text = text or ''}
end

-- An event for followers and sinks: "offset kind time length-of-members length-of-text", a newline, members, text.
local function frame(event, at)
  local head = string.format('%.0f %s %s %d %d\n', event.offset, event.kind, at, #event.members, #event.text)
  return head .. event.members .. event.text
end

local function write_events(t, events, now)
  local at, frames = exact(now), {}
  local is_kept_for_sinks = redis.call('EXISTS', K.sinks) == 1
  for i, event in ipairs(events) do
    redis.call('XADD', K.log, string.format('%.0f-0', event.offset), 'k', event.kind, 'a', at, 'm', event.members,
      'x', event.text)
    frames[i] = frame(event, at)
    if is_kept_for_sinks then
      redis.call('XADD', K.outbox, 'MAXLEN', '~', 100000, '*', 'space', t.space, 'channel', t.channel,
        'thread', t.thread_id, 'epoch', t.epoch, 'frame', frames[i])
    end
  end
  redis.pcall(PUBLISH, K.channel, t.epoch .. '\n' .. table.concat(frames))
  t.untrimmed = t.untrimmed + #events
end
