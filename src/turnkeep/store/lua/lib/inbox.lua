-- The inbox of a thread: what waits, how much of it one run takes, and when its window ends.
-- SELDOM: stop ripen_due

local CHUNK = 16

-- The i-th open message, read from the store when it is needed. Say `touch` before changing it.
local function open_at(t, i)
  local out = t.out
  if not out.open[i] then
    local from = i + out.gone
    for j, raw in ipairs(redis.call('LRANGE', K.inbox, from - 1, from + CHUNK - 2)) do
      if not out.open[i + j - 1] then out.open[i + j - 1] = unseal(raw, 'inbox') end
    end
    if not out.open[i] then damaged('inbox') end
  end
  return out.open[i]
end

local function touch(t, i)
  local m = open_at(t, i)
  m.changed, t.gathering = true, nil
  return m
end

-- Forget the first messages, which are open no more.
local function shift(t, many)
  local out, rest = t.out, {}
  for i = 1, many do
    if open_at(t, i).steer then t.steering = t.steering - 1 end
  end
  for i, m in pairs(out.open) do
    if i > many then rest[i - many] = m end
  end
  out.open, out.gone, t.inbox, t.gathering = rest, out.gone + many, t.inbox - many, nil
end

-- Take single messages out of the middle.
local function remove(t, is_gone)
  local rest = {}
  for i = 1, t.inbox do
    local m = open_at(t, i)
    if not is_gone[m.id] then rest[#rest + 1] = m elseif m.steer then t.steering = t.steering - 1 end
  end
  t.out.open, t.out.gone, t.out.is_rewritten, t.inbox, t.gathering = rest, 0, true, #rest, nil
end

local function ids_of(t, from, to)
  local ids = {}
  for i = from, to do ids[#ids + 1] = open_at(t, i).id end
  return ids
end

local function ids_json(ids)
  local quoted = {}
  for i, id in ipairs(ids) do quoted[i] = quote(id) end
  return '[' .. table.concat(quoted, ',') .. ']'
end

-- How many messages one run takes: a message that wants a batch of its own has one, else up to the limits.
local function batch_size(t, p)
  local size = 0
  for i = 1, t.inbox do
    local m = open_at(t, i)
    size = size + m.size
    if i > 1 and (m.alone or i - 1 == p.max_batch or size > p.max_batch_bytes) then return i - 1 end
    if m.alone then return 1 end
  end
  return t.inbox
end

-- When the inbox is due: the sliding window after the last message, at most `max_wait` after any; now when a flush is
-- asked or nobody can join any more.
local function window_end(t, p, now)
  local many = batch_size(t, p)
  local is_now = many < t.inbox or many >= p.max_batch or open_at(t, 1).alone or t.flushed
  local last = open_at(t, many)
  local ends = math.max(last.arrival, t.typed_at or 0) + last.window
  for i = 1, many do
    local m = open_at(t, i)
    is_now = is_now or m.flush
    ends = math.min(ends, m.arrival + m.max_wait)
  end
  return is_now and no_later(t, now) or ends
end

-- The same when a message has joined those that wait: told by what is known of all before it (`gathering`: count, size,
-- latest end, whether it is due now), so that the n-th message of a burst costs no more than the first. Whatever changes
-- one of those takes that away.
local function window_end_after(t, p, m, now)
  local before = t.inbox == 1 and {0, 0, m.arrival + m.max_wait} or t.gathering
  t.gathering = nil
  -- A program before this one changes the inbox and leaves this behind: then the message before is another one.
  if not before or before[1] ~= t.inbox - 1 or (t.inbox > 1 and before[5] ~= m.seq - 1) then return window_end(t, p, now) end
  local size = before[2] + m.size
  local is_now = before[4] or m.alone or m.flush or t.flushed or t.inbox >= p.max_batch
    or (t.inbox > 1 and size > p.max_batch_bytes)
  local latest = math.min(before[3], m.arrival + m.max_wait)
  t.gathering = {t.inbox, size, latest, is_now and true or false, m.seq}
  if is_now then return no_later(t, now) end
  return math.min(math.max(m.arrival, t.typed_at or 0) + m.window, latest)
end

local function decline(t, decision)
  for _, call in ipairs(t.calls or {}) do
    call.decision = call.decision or decision
  end
end

-- Tell the run, or the next claimant, to give up; open calls of a held turn are declined by a newer message.
local function stop(t, how, now)
  if t.state == 'leased' then
    t.stop = t.stop or how
    t.out.nudge = t.owner
    return
  end
  t.due = no_later(t, now)
  if t.batch > 0 then t.stop = t.stop or how end
  if t.state == 'held' and how ~= 'cancel' then decline(t, 'declined') end
end

-- What a message asks of a busy thread.
local function ask_for_turn(t, m, now)
  if m.on_busy == 'queue' then
    m.alone = true
  elseif m.on_busy == 'steer' and t.state == 'leased' then
    m.steer = 'asked'
    t.steering = t.steering + 1
    t.out.nudge = t.owner
  elseif m.on_busy == 'interrupt' or m.on_busy == 'rollback' then
    stop(t, m.on_busy, now)
  end
end

-- Put a message at the end of the inbox: this is its arrival and its place in order.
local function join(t, p, m, arrival)
  m.arrival, m.seq = arrival, t.next_seq
  t.next_seq = t.next_seq + 1
  t.inbox = t.inbox + 1
  t.out.open[t.inbox] = m
  if is_busy(t) then return ask_for_turn(t, m, arrival) end
  t.state = 'waiting'
  t.due = window_end_after(t, p, m, arrival)
end

local function ripen_due(t, p, now)
  while t.delayed > 0 and t.delayed_at <= now do
    local taken = #t.out.ripened
    local next_two = redis.call('ZRANGE', K.delayed, taken, taken + 1, 'WITHSCORES')
    local uid = next_two[1] or damaged('delayed')
    local m = unseal(redis.call('HGET', K.thread, 'd:' .. uid), 'delayed')
    t.out.ripened[taken + 1] = uid
    t.out.dropped[#t.out.dropped + 1] = 'd:' .. uid
    t.delayed, t.delayed_at = t.delayed - 1, tonumber(next_two[4])
    join(t, p, m, m.not_before)
    amend(t, m.id, 'seq', t.seq_base + m.seq)
    t.out.is_changed = true
  end
end

-- Messages whose `not_before` has come join the inbox, each at its own moment.
local function ripen(t, p, now)
  if t.delayed > 0 and t.delayed_at <= now then ripen_due(t, p, now) end
end
