-- Telling everything about a thread but its contents.

local function metadata_of()
  local raw = redis.call('HGET', K.thread, 'metadata')
  return raw and unseal(raw, 'metadata') or {}
end

local function metadata_json(metadata)
  local parts = {}
  for name, value in pairs(metadata) do parts[#parts + 1] = quote(name) .. ':' .. value end
  return '{' .. table.concat(parts, ',') .. '}'
end

-- Names and values, all as text; what is absent is not told.
local function tell_thread(t)
  local reply = {'thread'}
  local function tell(name, value)
    if value == nil or value == false then return end
    reply[#reply + 1] = name
    reply[#reply + 1] = type(value) == 'number' and exact(value) or value == true and '1' or value
  end
  for _, name in ipairs({'space', 'channel', 'thread_id', 'epoch', 'state', 'paused', 'created_at', 'active_at', 'due', 'ttl',
    'assistant', 'inbox', 'delayed', 'messages', 'turns', 'items', 'bytes', 'run_id', 'attempt', 'top'}) do tell(name, t[name]) end
  for name, value in pairs(t.options or {}) do tell('option:' .. name, value) end
  tell('usage', usage_json(t.usage))
  tell('calls', t.calls and calls_json(t))
  tell('metadata', metadata_json(metadata_of()))
  tell('summary', redis.call('HGET', K.thread, 'summary'))
  tell('incarnation', redis.call('HGET', K.meta, 'incarnation'))
  return reply
end

-- Whether a read at this moment is worth a write of `active_at`.
local function slides(t, p, now)
  return t.out.is_new or now - t.active_at >= (t.ttl or p.expiry) / 100
end

local function slide(t, p, now)
  if not slides(t, p, now) then return end
  t.active_at = now
  save(t, p, now)
end
