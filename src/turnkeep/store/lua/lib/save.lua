-- Storing a thread and all that an act adds to it.
--
-- The first write is one that a full server refuses, so that a refusal leaves nothing behind; acts that must succeed
-- on a full server call `free` before. Keys of the partition are written before those of the thread, whose types `load`
-- has met: where one of them is damaged the act stops, and of the thread nothing has changed.
-- SELDOM: erase

local function call_in_parts(command, key, arguments)
  for from = 1, #arguments, 1000 do
    redis.call(command, key, unpack(arguments, from, math.min(from + 999, #arguments)))
  end
end

-- ---------------------------------------------------------------- the indexes of the partition

-- Of each moment its text, as in `exact`.
local stamps = {}

-- A moment as text that sorts like the number.
local function stamp(at)
  local text = stamps[at]
  if not text then
    text = string.format('%020.6f', math.min(math.max(at, 0), 9e12))
    stamps[at] = text
  end
  return text
end

local function index_of(name)
  return name == 'due' and K.due or K.ends
end

local function entry_at(t, at)
  return t.space .. '\0' .. at .. '\0' .. t.channel
end

-- Where claims find the thread: {index, moment}; nothing while nobody has to look at it.
local function plan_index(t)
  local at = wake(t)
  local was = t.indexed
  t.indexed = at and {(t.state == 'leased' or t.state == 'held') and 'ends' or 'due', stamp(at)} or nil
  return was, at
end

-- What `spaces` holds of a space at most, as this script has met it: not asked again for each of its threads.
local bounds = {}

local function lower_bound(t, at)
  local key = K.spaces
  local known, moment = bounds[key] or {}, at
  if known[t.space] and known[t.space] <= moment then return 0 end
  at = exact(at)
  local key_of_queue = key .. ':' .. t.space:match('%z(.*)$')
  local lowered = redis.call('ZADD', key, 'LT', 'CH', at, t.space) + redis.call('ZADD', key_of_queue, 'LT', 'CH', at, t.space)
  known[t.space], bounds[key] = moment, known
  return lowered
end

local function write_index(t, was, at)
  local is = t.indexed
  if was and is and was[1] == is[1] and was[2] == is[2] then return end
  if is then redis.call('ZADD', index_of(is[1]), '0', entry_at(t, is[2])) end
  if was then redis.call('ZREM', index_of(was[1]), entry_at(t, was[2])) end
  -- `spaces` holds a lower bound of the earliest moment in each space, and so does a list of each queue; who looks there
  -- corrects it. Of a thread that comes later than it came they hold one already.
  if not is or (was and was[2] <= is[2]) then return end
  if lower_bound(t, at) > 0 then
    redis.pcall(PUBLISH, K.hints, 'ready\0' .. exact(at) .. '\0' .. t.space .. '\0' .. t.channel)
  end
end

-- Under which count a thread goes, beside those by time.
local function place(state, paused)
  if state == 'leased' then return 'active' end
  if paused then return 'paused' end
  return state == 'held' and 'held' or nil
end

-- In a script that acts on several threads: what is to be added to counters, by key and field. The first change of each
-- is written at once, so that a key which is damaged is met before a thread is changed; the others together at the end.
local later

local function count(t, name, change)
  if change == 0 then return end
  local key, field = K.counters, t.space .. '\0' .. name
  local waiting = later and later[key] or {}
  if waiting[field] then
    waiting[field] = waiting[field] + change
    return
  end
  redis.call('HINCRBY', key, field, exact(change))
  waiting[field] = 0
  if later then later[key] = waiting end
end

local function count_together()
  later = {}
end

local function write_later_counts()
  for key, waiting in pairs(later) do
    for field, change in pairs(waiting) do
      if change ~= 0 then redis.call('HINCRBY', key, field, exact(change)) end
    end
  end
end

local function write_counts(t, indexed)
  local was = t.out.was
  local before, after = place(was.state, was.paused), place(t.state, t.paused)
  if before ~= after then
    if before then count(t, before, -1) end
    if after then count(t, after, 1) end
  end
  count(t, 'open', t.inbox + t.delayed - was.inbox - was.delayed)
  count(t, 'listed', (t.indexed and 1 or 0) - (indexed and 1 or 0))
  for name, change in pairs(t.out.counted) do count(t, name, change) end
end

local function lease_entry(t, owner, token)
  return owner .. '\0' .. token .. '\0' .. t.space .. '\0' .. t.channel
end

local function write_lease(t)
  local was = t.out.was
  if was.token == t.token then return end
  if was.token then redis.call('ZREM', K.leases, lease_entry(t, was.owner, was.token)) end
  if t.token then redis.call('ZADD', K.leases, '0', lease_entry(t, t.owner, t.token)) end
end

local function write_presence(t)
  if t.out.is_new then
    redis.call('ZADD', K.threads, '0', t.space .. '\0' .. t.channel)
    redis.call('HSET', K.aliases, t.space .. '\0' .. t.thread_id, t.channel)
  end
  if t.out.aging then redis.call('ZADD', K.aging, exact(t.out.aging), t.space .. '\0' .. t.channel) end
end

-- Once in ten seconds and not with every act, which would be a tenth of what a turn costs: a listing looks at all threads
-- of a stretch before it orders them.
local STRETCH = 10

local function write_activity(t)
  local was, is = t.out.was.active_at, math.floor(t.active_at / STRETCH)
  if was and math.floor(was / STRETCH) == is then return end
  redis.pcall('ZADD', activity_of(t.space), exact(is * STRETCH), t.channel)
end

-- ---------------------------------------------------------------- the keys of the thread

-- When the janitor has to look at a thread: when its log may have aged, or it may have expired.
local function plan_janitor(t, p, now)
  local at = now + math.min(p.log_age, t.ttl or p.expiry)
  if t.out.is_new or (#t.out.events > 0 and t.aging > at) then
    t.aging, t.out.aging = at, at
  end
end

-- The janitor alone deletes a thread: an expiry of Redis would follow whoever sets the clock of the server. Keys that
-- were written with one lose it.
local function write_expiry(t)
  if not t.expires then return end
  t.expires = nil
  for _, key in ipairs({K.thread, K.log, K.known, K.history, K.finals, K.snapshot}) do redis.call('PERSIST', key) end
end

local function write_head(t)
  local fields = t.out.fields
  fields[#fields + 1] = 'head'
  fields[#fields + 1] = sealed_head(t)
  if t.state == 'leased' then
    fields[#fields + 1] = 'live'
    fields[#fields + 1] = live_value(t)
  end
  call_in_parts('HSET', K.thread, fields)
  if t.state ~= 'leased' and t.out.was.state == 'leased' then t.out.dropped[#t.out.dropped + 1] = 'live' end
  if #t.out.dropped > 0 then call_in_parts('HDEL', K.thread, t.out.dropped) end
end

local function sealed_message(m)
  m.changed = nil
  return seal(m)
end

local function write_inbox(t)
  local out, pushed = t.out, {}
  local from = out.stored - out.gone + 1
  if out.is_rewritten then
    redis.call('DEL', K.inbox)
    from = 1
  else
    for i, m in pairs(out.open) do
      if m.changed and i < from then redis.call('LSET', K.inbox, i + out.gone - 1, sealed_message(m)) end
    end
    if out.gone > 0 then redis.call('LTRIM', K.inbox, out.gone, -1) end
  end
  for i = from, t.inbox do pushed[#pushed + 1] = sealed_message(out.open[i]) end
  call_in_parts('RPUSH', K.inbox, pushed)
end

local function write_delayed(t)
  for _, delay in ipairs(t.out.delays) do redis.call('ZADD', K.delayed, delay.at, delay.uid) end
  for _, uid in ipairs(t.out.ripened) do redis.call('ZREM', K.delayed, uid) end
  for _, uid in ipairs(t.out.undelayed) do redis.call('ZREM', K.delayed, uid) end
end

local function write_known(t)
  local fields = {}
  if t.out.has_past then redis.call('HDEL', K.known, '~') end
  for id, record in pairs(t.out.known) do
    fields[#fields + 1] = 'm:' .. id
    fields[#fields + 1] = seal(record)
  end
  for n, closing in pairs(t.out.closings) do
    fields[#fields + 1] = 'c:' .. n
    fields[#fields + 1] = seal(closing)
  end
  call_in_parts('HSET', K.known, fields)
end

local function write_history(t)
  local out = t.out
  if out.turn then redis.call('RPUSH', K.history, out.turn) end
  for _ = 1, out.taken_back or 0 do redis.call('RPOP', K.history) end
  if out.forgotten then redis.call('LTRIM', K.history, out.forgotten, -1) end
end

local function save(t, p, now)
  local out = t.out
  if out.is_recounted then plan_history(t, p) end
  plan_janitor(t, p, now)
  local was, at = plan_index(t)
  write_presence(t)
  write_index(t, was, at)
  write_lease(t)
  write_counts(t, was)
  write_activity(t)
  if #out.events > 0 then
    write_events(t, out.events, now)
    if t.untrimmed >= TRIM_EVERY then trim(t, p, now) end
  end
  write_expiry(t)
  write_head(t)
  write_inbox(t)
  write_delayed(t)
  write_known(t)
  write_history(t)
  if out.nudge then redis.pcall(PUBLISH, K.hints, table.concat({'nudge', out.nudge, t.space, t.channel}, '\0')) end
end

-- Ids are remembered as long as was said when they were settled, whatever happens to their thread; then the janitor
-- drops them.
local function leave_ids(t, p, now)
  local who = t.space .. '\0' .. t.channel
  if t.closed_from > t.closed_to then
    redis.call('DEL', K.known)
    return redis.call('ZREM', K.aging, who)
  end
  t.out.has_past = nil
  write_known(t)
  local seqs, until_ = t.seq_base + t.next_seq - 1, now + p.dedupe
  redis.call('HSET', K.known, '~', seal({closed_from = t.closed_from, closed_to = t.closed_to, past_to = t.closed_to,
    closed_seq = seqs, seq_base = seqs, until_ = until_}))
  redis.call('ZADD', K.aging, until_, who)
end

-- Delete a thread and every trace of it but its dead letters and the ids of its messages, of which none is open.
local function erase(t, p, now)
  if t.indexed then redis.call('ZREM', index_of(t.indexed[1]), entry_at(t, t.indexed[2])) end
  if t.token then redis.call('ZREM', K.leases, lease_entry(t, t.owner, t.token)) end
  redis.call('ZREM', K.threads, t.space .. '\0' .. t.channel)
  redis.pcall('ZREM', activity_of(t.space), t.channel)
  redis.call('HDEL', K.aliases, t.space .. '\0' .. t.thread_id)
  count(t, 'open', -t.inbox - t.delayed)
  count(t, 'listed', t.indexed and -1 or 0)
  local counted = place(t.state, t.paused)
  if counted then count(t, counted, -1) end
  redis.call('DEL', K.thread, K.inbox, K.delayed, K.log, K.finals, K.history, K.snapshot)
  leave_ids(t, p, now)
end

-- The thread of this operation, if there is one; one that has expired is deleted when met. Second: a thread that was
-- named by its id (`want`) is not here any more, so the caller has to look elsewhere.
local function find(p, now)
  local t = load()
  if t and is_over(t, p, now) then
    erase(t, p, now)
    t = nil
  end
  return t, A.want ~= '' and (t == nil or t.thread_id ~= A.want)
end

-- The thread of this operation, or a new one; nothing when the caller has to look elsewhere.
local function find_or_new(p, now)
  local t, is_gone = find(p, now)
  if is_gone then return nil end
  return t or new_thread(now)
end
