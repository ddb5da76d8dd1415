-- Finding an open message by its id, and telling what is known of a message.

-- The messages that wait beside the inbox, by time.
local function delayed_messages(t)
  local messages = {}
  for _, uid in ipairs(redis.call('ZRANGE', K.delayed, #t.out.ripened, -1)) do
    messages[#messages + 1] = unseal(redis.call('HGET', K.thread, 'd:' .. uid), 'delayed')
  end
  return messages
end

-- An open message and its place in the inbox (none while it is delayed).
local function find_message(t, id)
  for i = 1, t.inbox do
    local m = open_at(t, i)
    if m.id == id then return m, i end
  end
  for _, m in ipairs(t.delayed > 0 and delayed_messages(t) or {}) do
    if m.id == id then return m end
  end
end

-- A message that may still be changed, with its place; else why not.
local function unfrozen(t, p, now, id)
  local record, closing = known_of(t, id, now)
  if not record then return nil, {'unknown'} end
  if closing then return nil, {'late', closing.status} end
  ripen(t, p, now)
  local m, i = find_message(t, id)
  if not m then damaged('inbox') end
  if (i and i <= t.batch) or m.steer == 'offered' then return nil, {'frozen'} end
  return m, i
end

-- What became of a message: of an open one where it is now, of a settled one how it ended.
local function tell_message(t, id, record, closing, m, i)
  local reply = {'message', id, receipt(t, record), record.steer or ''}
  if closing then
    local covers = closing.status ~= 'withdrawn' and ids_json(closing.ids) or '[]'
    reply[5], reply[6], reply[7], reply[8] = closing.status, closing.run_id or '', exact(closing.at), covers
    return reply
  end
  local is_running = i and i <= t.batch
  reply[5] = is_running and 'running' or i and 'waiting' or 'delayed'
  reply[6], reply[7], reply[8] = is_running and t.run_id or '', '', '[]'
  reply[9], reply[10] = message_json(m), redis.call('HGET', K.thread, 'b:' .. m.uid) or damaged('body')
  return reply
end
