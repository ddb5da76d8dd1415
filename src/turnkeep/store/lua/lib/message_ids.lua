-- Message ids that were accepted, each with its first receipt. How a message was settled is told once per batch, by a
-- closing (field `c:<n>`, n rising): {lo, hi: seqs, status, run_id, ids, at, forget_at, thread_id}. A record finds its
-- closing by its seq, or names it (`closed`).
--
-- Ids belong to the channel: they outlive their thread, and the next thread goes on counting where it ended (`~`, see
-- lib/record.lua). So seqs in here are those of the thread plus its `seq_base`, and closings up to `past_to` tell of
-- earlier threads.

local function record_of(t, id)
  if t.out.known[id] then return t.out.known[id] end
  if ids_met == 0 then return nil end
  local raw = redis.call('HGET', K.known, 'm:' .. id)
  return raw and unseal(raw, 'known')
end

local function closing_at(n)
  local raw = redis.call('HGET', K.known, 'c:' .. n)
  return raw and unseal(raw, 'closing')
end

-- The number of the closing that holds this seq; nothing while it is open; 0 when the closing is gone.
local function closing_with(t, seq)
  if not seq or seq > t.closed_seq then return nil end
  local low, high = t.closed_from, t.closed_to
  while low < high do
    local middle = math.floor((low + high) / 2)
    local closing = closing_at(middle) or damaged('closing')
    if closing.hi >= seq then high = middle else low = middle + 1 end
  end
  return low <= t.closed_to and low or 0
end

-- What is remembered of an id on this channel, how it was settled, and the number of that closing; nothing when it is
-- unknown or forgotten.
local function accepted_before(t, id, now)
  local record = record_of(t, id)
  if not record then return nil end
  local n = record.closed or closing_with(t, record.seq)
  if not n then return record end
  local closing = closing_at(n)
  if not closing or closing.forget_at <= now or closing.lo > (record.seq or closing.lo) then return nil end
  return record, closing, n
end

-- The same for an id of this thread alone: what was said to an earlier one cannot be seen or changed any more.
local function known_of(t, id, now)
  local record, closing, n = accepted_before(t, id, now)
  if n and n <= t.past_to then return nil end
  return record, closing
end

-- Change one value of what is known of an open message.
local function amend(t, id, name, value)
  local record = record_of(t, id) or damaged('known')
  record[name] = value
  t.out.known[id] = record
end

-- These messages are open no more.
local function close_ids(t, p, now, closing)
  t.closed_to = t.closed_to + 1
  closing.at, closing.forget_at, closing.thread_id = now, now + p.dedupe, t.thread_id
  t.out.closings[t.closed_to] = closing
  return t.closed_to
end
