-- Taking a message in.

-- The message of the current row, with what counts for it fixed: its own values, else the thread's, else the queue's.
-- One that `is_begun` by its sender waits for no window and for no time.
local function opened(t, p, is_begun)
  local own = t.options or p
  local window = tonumber(A.window) or own.window or p.window
  local wait = window == 0 and 0 or own.max_wait or p.max_wait
  return {
    id = A.id, uid = t.messages + 1, size = tonumber(A.size), window = window, max_wait = tonumber(A.max_wait) or wait,
    on_busy = A.on_busy ~= '' and A.on_busy or own.on_busy or p.on_busy, flush = is_begun or A.flush == '1' or nil,
    not_before = not is_begun and tonumber(A.not_before) or nil,
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

-- Take the message of the current row in, or say why not.
local function accept_one(t, p, now, max_inbox, is_begun)
  ripen(t, p, now)
  if t.inbox + t.delayed >= max_inbox then return {'full', t.inbox + t.delayed} end
  local m = opened(t, p, is_begun)
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
    quote(t.thread_id)), A.text)
  local fields = t.out.fields
  fields[#fields + 1] = 'b:' .. m.uid
  fields[#fields + 1] = A.body
  local record = {digest = A.digest, delayed = is_delayed or nil, position = position, minted = A.minted == '1' or nil,
    due_in = due_in(t, m, is_delayed, now), steered = m.steer and true, steer = m.steer and 'accepted',
    seq = m.seq and t.seq_base + m.seq}
  t.out.known[m.id] = record
  t.out.is_accepted = true
  return receipt(t, record)
end
