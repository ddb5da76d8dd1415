-- The record of one thread: the sealed field `head` of its hash, and in `out` what this act adds beside it.
--
-- A record that was loaded may be changed at will: nothing is stored before `save` (lib/save.lua). Values are sealed
-- with a checksum, so that damage is found and never acted upon. A field that is absent has its default.

local DEFAULTS = {
  state = 'idle', batch = 0, attempt = 0, fence = 0, published = 0, journal = 0, runs = 0, claimed_at = 0,
  due_at = 0, first_claimed_at = 0, next_seq = 1, inbox = 0, delayed = 0, steering = 0, top = 0, floor = 0, deltas = 0,
  untrimmed = 0, cut = 0, closed_from = 1, closed_to = 0, closed_seq = 0, messages = 0, turns = 0, items = 0, bytes = 0, aging = 0,
  seq_base = 0, past_to = 0, edits = 0, transcript_at = 0,
}
DEFAULTS.__index = DEFAULTS

local function damaged(what)
  error('DAMAGED ' .. what, 0)
end

-- Text and packed values carry the first 8 hex digits of their SHA-1.
local function seal_text(text)
  return redis.sha1hex(text):sub(1, 8) .. text
end

local function unseal_text(raw, what)
  if not raw then damaged(what) end
  local text = raw:sub(9)
  if redis.sha1hex(text):sub(1, 8) ~= raw:sub(1, 8) then damaged(what) end
  return text
end

local function seal(value)
  return seal_text(cmsgpack.pack(value))
end

local function unseal(raw, what)
  return cmsgpack.unpack(unseal_text(raw, what))
end

-- Of each number its text: the moments and spans of a script are few and told of each of its threads, and a format
-- costs as much as a small command. So do numbers that a command is given as such.
local texts = {}

-- A number as text that reads back as the same number; nothing for nothing.
local function exact(number)
  if not number then return '' end
  local text = texts[number]
  if not text then
    text = string.format('%.17g', number)
    texts[number] = text
  end
  return text
end

-- A string as JSON.
local function quote(text)
  return cjson.encode(text)
end

-- The time that counts: that of the store, which every caller knows (`clock.lua`).
local function moment()
  return tonumber(A.now)
end

-- Unpacked once for all threads of a script, which are mostly of one queue.
local policies = {}

-- The policy of the queue, packed by the caller; not to be changed.
local function policy(packed)
  if policies[packed] then return policies[packed] end
  local p = {}
  p.window, p.max_wait, p.max_batch, p.max_batch_bytes, p.max_inbox, p.expiry, p.dedupe, p.history_items,
    p.history_bytes, p.log_events, p.log_age, p.runs_kept = struct.unpack('<dddddddddddd', packed)
  p.on_busy = packed:sub(97)
  policies[packed] = p
  return p
end

-- Usage is nine whole numbers: requests, tokens (input, cached, cache write, output, reasoning), cost, unpriced, estimated.
local USAGE = {'requests', 'input_tokens', 'cached_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens',
  'cost_nano', 'unpriced', 'estimated'}

local function usage(packed)
  local sum = {struct.unpack('<ddddddddd', packed)}
  sum[10] = nil
  return sum
end

local function add_usage(a, b)
  if not a or not b then return a or b end
  local sum = {}
  for i = 1, 9 do sum[i] = a[i] + b[i] end
  return sum
end

local function usage_json(sum)
  local parts = {}
  for i, name in ipairs(USAGE) do
    if sum and sum[i] ~= 0 then parts[#parts + 1] = string.format('"%s":%.0f', name, sum[i]) end
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function with_defaults(t)
  return setmetatable(t, DEFAULTS)
end

-- The record as it is stored: without what has its default, as long as nothing is to be done with it. To look for that
-- in a thread that is read again at once was a third of what sealing it cost.
local function sealed_head(t)
  local out = t.out
  t.out = nil
  if t.state == 'idle' then
    for name, value in pairs(t) do
      if value == false or value == DEFAULTS[name] then t[name] = nil end
    end
  end
  local head = seal(t)
  t.out = out
  return head
end

-- The threads of a space by their last activity, for whoever lists them newest first. A hint: its damage fails no act, and
-- a listing that finds it incomplete completes it.
local function activity_of(space)
  return K.threads .. ':' .. space
end

-- What an act adds: events, hash fields, messages; the inbox as far as it was read.
local function fresh_out()
  return {
    events = {}, fields = {}, dropped = {}, known = {}, closings = {}, delays = {}, ripened = {}, undelayed = {},
    counted = {}, open = {}, gone = 0, stored = 0, stored_turns = 0,
  }
end

-- The record alone; nothing when there is none. `fields` are `head` and `live`, where they were read before.
local function read_head(fields)
  fields = fields or redis.call('HMGET', K.thread, 'head', 'live')
  if not fields[1] then return nil end
  local t = with_defaults(unseal(fields[1], 'head'))
  if t.last then t.settlements, t.last = {t.last}, nil end -- layout 1
  if t.state == 'leased' then
    local live = read_live(fields[2])
    if live.token ~= t.token then damaged('live') end
    t.top, t.published, t.deltas, t.untrimmed = live.top, live.published, live.deltas, live.untrimmed
  end
  return t
end

-- How much is remembered of message ids on this channel, as `load` met it: a new channel is asked for nothing more.
local ids_met = 0

-- A record that was read, ready for `save`.
local function with_out(t)
  t.out = fresh_out()
  t.out.stored = t.inbox
  t.out.was = {inbox = t.inbox, delayed = t.delayed, state = t.state, paused = t.paused, owner = t.owner, token = t.token,
    active_at = t.active_at}
  return t
end

-- The thread, or nothing. Reads every key that will be written, so that a wrong type is met before the first write, and
-- before a model is asked and paid.
local function load(fields)
  local t = read_head(fields)
  if not t and redis.call('EXISTS', K.inbox, K.log, K.history, K.known) == 0 then
    ids_met = 0
    return nil
  end
  local length = redis.call('LLEN', K.inbox)
  local turns = redis.call('LLEN', K.history)
  local beside = redis.call('XLEN', K.log) + turns
  ids_met = redis.call('HLEN', K.known)
  if not t then
    if length + beside > 0 or (ids_met > 0 and redis.call('HEXISTS', K.known, '~') == 0) then damaged('head') end
    return nil
  end
  if length ~= t.inbox then damaged('inbox') end
  with_out(t)
  t.out.stored_turns = turns
  return t
end

local function new_thread(now)
  local t = with_defaults({space = A.space, channel = A.channel, thread_id = A.thread_id, epoch = A.epoch,
    created_at = now, active_at = now})
  local past = ids_met > 0 and redis.call('HGET', K.known, '~')
  for name, value in pairs(past and unseal(past, 'known') or {}) do t[name] = value end
  t.until_ = nil
  t.out = fresh_out()
  t.out.is_new, t.out.has_past = true, past and true
  t.out.was = {inbox = 0, delayed = 0, state = 'idle'}
  return t
end

-- Whether the thread has expired: then it counts as absent.
local function is_over(t, p, now)
  return t.state == 'idle' and t.delayed == 0 and t.active_at + (t.ttl or p.expiry) <= now
end

-- What names the state of the transcript.
local function version_of(t)
  return {t.turns, t.edits, exact(t.transcript_at)}
end

local function is_busy(t)
  return t.state == 'leased' or t.state == 'retry' or t.state == 'held'
end

-- When somebody has to look at this thread; nothing: not before somebody acts.
local function wake(t)
  if t.paused and t.state ~= 'leased' then return nil end
  if t.state == 'leased' or t.delayed == 0 then return t.due end
  return t.due and math.min(t.due, t.delayed_at) or t.delayed_at
end

-- Due now; what is due already keeps its place before others.
local function no_later(t, now)
  return t.due and math.min(t.due, now) or now
end
