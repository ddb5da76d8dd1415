-- Taking a message in.

-- The message of one row of arguments, with what counts for it fixed: its own values, else the thread's, else the queue's.
local function opened(t, p, row)
  local own = t.options or {}
  local window = tonumber(row.window) or own.window or p.window
  local wait = own.max_wait or p.max_wait
  if window == 0 then wait = 0 end
  return {
    id = row.id, uid = t.messages + 1, size = tonumber(row.size), window = window, max_wait = tonumber(row.max_wait) or wait,
    on_busy = row.on_busy ~= '' and row.on_busy or own.on_busy or p.on_busy, flush = row.flush == '1' or nil,
    not_before = tonumber(row.not_before),
  }
end

-- Put a message beside the inbox until its time; its place among those that wait there.
local function delay(t, m)
  local out = t.out
  local before = redis.call('ZCOUNT', K.delayed, '-inf', m.not_before) - #out.ripened
  for _, other in ipairs(out.delays) do
    if other.at <= m.not_before then before = before + 1 end
  end
  local uid = string.format('%012d', m.uid)
  out.delays[#out.delays + 1] = {at = m.not_before, uid = uid}
  out.fields[#out.fields + 1] = 'd:' .. uid
  out.fields[#out.fields + 1] = seal(m)
  t.delayed = t.delayed + 1
  t.delayed_at = t.delayed_at and math.min(t.delayed_at, m.not_before) or m.not_before
  return before + 1
end

local function due_in(t, m, is_delayed, now)
  if is_delayed then return m.not_before - now end
  if t.state == 'waiting' and not t.paused and t.due then return math.max(0, t.due - now) end
  return nil
end

-- A receipt as it is told: status, position, due in, minted, steer, repeated, channel, thread.
local function receipt(t, record, repeated, thread_id)
  return {'receipt', record.delayed and 'delayed' or 'accepted', record.position, exact(record.due_in),
    record.minted and 1 or 0, record.steered and 1 or 0, repeated and 1 or 0, t.channel, thread_id or t.thread_id}
end

-- The first receipt again, which names the thread of that time.
local function repeated_receipt(t, record, closing, digest)
  if record.digest ~= digest then return {'conflict'} end
  return receipt(t, record, true, closing and closing.thread_id)
end

-- Take one message in, or say why not.
local function accept_one(t, p, now, row, max_inbox)
  ripen(t, p, now)
  if t.inbox + t.delayed >= max_inbox then return {'full', t.inbox + t.delayed} end
  local m = opened(t, p, row)
  local is_delayed = m.not_before ~= nil and m.not_before > now
  if m.on_busy == 'reject' and is_busy(t) and not is_delayed then return {'busy'} end
  t.messages, t.active_at = t.messages + 1, now
  local position
  if is_delayed then
    position = t.inbox + delay(t, m)
  else
    join(t, p, m, now)
    position = t.inbox
  end
  emit(t, 'accepted', string.format('{"message_ids":%s,"policy":"%s","thread_id":%s}', ids_json({m.id}), m.on_busy,
    quote(t.thread_id)), row.text)
  local fields = t.out.fields
  fields[#fields + 1] = 'b:' .. m.uid
  fields[#fields + 1] = row.body
  local record = {digest = row.digest, delayed = is_delayed or nil, position = position, minted = row.minted == '1' or nil,
    due_in = due_in(t, m, is_delayed, now), steered = m.steer and true, steer = m.steer and 'accepted',
    seq = m.seq and t.seq_base + m.seq}
  t.out.known[m.id] = record
  t.out.is_accepted = true
  return receipt(t, record)
end
