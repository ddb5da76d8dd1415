-- Leasing a thread, and telling a claim to its owner.

local function event_of_run(t, more)
  return '{"message_ids":' .. ids_json(ids_of(t, 1, t.batch)) .. ',"run_id":' .. quote(t.run_id)
    .. string.format(',"attempt":%d', t.attempt) .. (more or '') .. '}'
end

-- `grant` is {owner, lease, token, run_id}.
local function lease_thread(t, p, now, grant)
  if not t.frozen then t.batch = batch_size(t, p) end
  if not t.run_id then t.run_id, t.attempt, t.first_claimed_at = grant.run_id, 0, now end
  t.due_at = math.min(t.due or now, now)
  t.state, t.due = 'leased', now + grant.lease
  t.token, t.owner, t.claimed_at = grant.token, grant.owner, now
  t.fence, t.attempt, t.published = t.fence + 1, t.attempt + 1, 0
  t.flushed, t.typed_at, t.gathering = nil, nil, nil
  t.active_at = now
  if not t.stop then
    emit(t, 'started', event_of_run(t, ',"thread_id":' .. quote(t.thread_id)))
    t.live_from, t.deltas = t.top, 0
  end
end

-- What the store knows of a message beside its body, as JSON.
local function message_json(m)
  return string.format('{"uid":%d,"seq":%d,"arrival":%s,"window":%s,"max_wait":%s,"on_busy":"%s"}', m.uid, m.seq or 0,
    exact(m.arrival or 0), exact(m.window), exact(m.max_wait), m.on_busy)
end

-- Messages with their bodies: JSON, body, JSON, body …
local function tell_messages(t, from, to)
  local reply, fields = {}, {}
  for i = from, to do fields[#fields + 1] = 'b:' .. open_at(t, i).uid end
  for n = 1, #fields, 1000 do
    local bodies = redis.call('HMGET', K.thread, unpack(fields, n, math.min(n + 999, #fields)))
    for j, body in ipairs(bodies) do
      reply[#reply + 1] = message_json(open_at(t, from + n + j - 2))
      reply[#reply + 1] = body or damaged('body')
    end
  end
  return reply
end

local function tell_journal(t)
  local fields = {}
  for n = 0, t.journal - 1 do fields[#fields + 1] = 'j:' .. n end
  return #fields > 0 and redis.call('HMGET', K.thread, unpack(fields)) or {}
end

-- The claim that is valid now. To be read before `save`.
local function tell_claim(t)
  local oldest = open_at(t, 1)
  return {'claim', t.thread_id, t.run_id, t.token, t.fence, t.owner, t.attempt, exact(t.due), oldest.attempts or 0,
    oldest.deaths or 0, oldest.last_chance and 1 or 0, t.stop or '', calls_json(t), t.assistant or '',
    t.assistant and 1 or 0, exact(t.claimed_at), exact(t.due_at), t.items, version_of(t),
    tell_messages(t, 1, t.batch), tell_journal(t)}
end
