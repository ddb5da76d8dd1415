-- How runs and claims end, and what a thread does then.
-- SELDOM: defer_all

local SETTLEMENTS = 4

-- Messages that asked to steer are told what became of it.
local function end_steering(t, places, outcome, run_id)
  local ids = {}
  for n, i in ipairs(places) do
    local m = touch(t, i)
    m.steer = nil
    ids[n] = m.id
    amend(t, m.id, 'steer', outcome)
  end
  if #ids == 0 then return end
  local run = run_id and ',"run_id":' .. quote(run_id) or ''
  emit(t, 'steered', '{"message_ids":' .. ids_json(ids) .. run .. ',"outcome":"' .. outcome .. '"}')
end

local function defer_all(t, run_id)
  local places = {}
  for i = 1, t.inbox do
    if open_at(t, i).steer then places[#places + 1] = i end
  end
  t.steering = 0
  end_steering(t, places, 'deferred', run_id)
end

-- Messages that asked to steer and were not taken wait like any other.
local function defer_steering(t, run_id)
  if t.steering > 0 then defer_all(t, run_id) end
end

-- End a claim: back to retry, with the frozen batch or with none. A pending stop keeps the batch for its cancel commit;
-- a batch that dissolves leaves nothing to steer.
local function let_go(t)
  t.state, t.token, t.owner = 'retry', nil, nil
  t.frozen = t.frozen or t.stop ~= nil
  if not t.frozen then
    t.batch = 0
    defer_steering(t, t.run_id)
  end
  for i = t.batch + 1, t.steering > 0 and t.inbox or 0 do
    if open_at(t, i).steer == 'offered' then touch(t, i).steer = 'asked' end
  end
end

-- The result left behind, if this claim was settled by this act before.
local function settled(t, act)
  for _, left in ipairs(t and t.thread_id == A.thread_id and t.settlements or {}) do
    if left[1] == A.token and left[2] == act then return left end
  end
end

-- Leave the result behind, beside those of a few claims before it: a repeat may come after the next settlement.
local function leave_behind(t, settlement)
  local left = t.settlements or {}
  table.insert(left, 1, settlement)
  left[SETTLEMENTS + 1] = nil
  t.settlements = left
end

local function is_owned(t)
  return t and t.thread_id == A.thread_id and t.state == 'leased' and t.token == A.token
end

-- The batch is open no more.
local function close_batch(t, p, now, status)
  local ids, last = ids_of(t, 1, t.batch), open_at(t, t.batch)
  for i = 1, t.batch do t.out.dropped[#t.out.dropped + 1] = 'b:' .. open_at(t, i).uid end
  close_ids(t, p, now, {lo = t.seq_base + open_at(t, 1).seq, hi = t.seq_base + last.seq, status = status,
    run_id = t.run_id, ids = ids})
  t.closed_seq = t.seq_base + last.seq
  shift(t, t.batch)
end

-- The run that ends, for people; `used` is JSON of its usage, `more` of further members.
local function remember_run(t, p, now, status, used, more)
  t.runs = t.runs + 1
  local text = string.format('{"run_id":%s,"status":"%s","message_ids":%s,"attempt":%d,"started_at":%s,"finished_at":%s,',
    quote(t.run_id), status, ids_json(ids_of(t, 1, t.batch)), t.attempt, exact(t.first_claimed_at), exact(now))
  local fields = t.out.fields
  fields[#fields + 1] = 'r:' .. t.runs
  fields[#fields + 1] = seal_text(text .. '"usage":' .. used .. ',"calls":' .. calls_json(t) .. more .. '}')
  if t.runs > p.runs_kept then t.out.dropped[#t.out.dropped + 1] = 'r:' .. (t.runs - p.runs_kept) end
end

local function end_run(t)
  for n = 0, t.journal - 1 do t.out.dropped[#t.out.dropped + 1] = 'j:' .. n end
  t.journal, t.batch, t.attempt, t.deltas = 0, 0, 0, 0
  t.calls, t.frozen, t.run_id, t.token, t.owner, t.stop, t.live_from, t.spent = nil, nil, nil, nil, nil, nil, nil, nil
end

-- No run is open: wait for the rest of the inbox, or for nothing.
local function rest(t, p, now)
  t.active_at = now
  if t.state == 'retry' and t.batch > 0 then return end
  t.state, t.due = 'idle', nil
  ripen(t, p, now)
  if t.inbox > 0 then
    t.state = 'waiting'
    t.due = window_end(t, p, now)
  else
    t.run_id, t.attempt, t.live_from, t.flushed = nil, 0, nil, nil
  end
end
