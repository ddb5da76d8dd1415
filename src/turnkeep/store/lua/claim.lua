-- claim: take threads that are due.
-- KEYS: | @thread | @partition
-- ARGV: now owner lease queues | space policy index entry token run_id
-- USES: live record groups ready sinks log trim save message_ids inbox calls turns claims
-- RETURNS: for each thread when to look again in its partition for these queues (or ''); then for each {'claim', …}, or the moment when it is due, ''
-- for never, or {'alone'}: nothing was done, and a call for it alone tells what is wrong.
-- GUARANTEE: with the token of the claim that is valid now, that claim again. An entry of an index that is wrong is removed.
-- A server that takes no writes refuses it all, unless something was claimed: then it tells that.

local now = moment()

local function is_ready(t)
  return t.state ~= 'idle' and (not t.paused or t.state == 'leased') and t.due and t.due <= now
end

-- The last owner vanished: count a death on the oldest message; what was not frozen dissolves.
local function bury(t)
  local oldest = touch(t, 1)
  oldest.deaths = (oldest.deaths or 0) + 1
  let_go(t)
end

local function drop_entry()
  if A.entry ~= '' then redis.call('ZREM', index_of(A.index), A.entry) end
end

local function leave(t, p)
  if t.out.is_changed then
    save(t, p, now)
  elseif not t.indexed or A.entry ~= entry_at(t, t.indexed[2]) or A.index ~= t.indexed[1] then
    drop_entry()
  end
  return exact(wake(t))
end

-- Whether another worker was faster: several hear the same hint. Told by the field that a leased thread has alone; one whose
-- lease is over is found by the index of ends. A repeat finds its own token there, as `live_value` has packed it.
local function is_taken(live)
  return A.index ~= 'ends' and live and not live:find(string.char(#A.token) .. A.token, 1, true)
end

local function take(i)
  turn_to(i)
  point(i)
  local fields = redis.call('HMGET', K.thread, 'head', 'live')
  if is_taken(fields[2]) then
    drop_entry()
    return ''
  end
  local p, t = policy(A.policy), load(fields)
  if t and t.state == 'leased' and t.token == A.token then return tell_claim(t) end
  if not t then
    drop_entry()
    return ''
  end
  ripen(t, p, now)
  if not is_ready(t) then return leave(t, p) end
  if t.state == 'leased' then
    bury(t)
    if t.paused then
      t.out.is_changed = true
      rest(t, p, now)
      return leave(t, p)
    end
  end
  if t.state == 'held' and not t.stop then decline(t, 'expired') end
  lease_thread(t, p, now, {owner = A.owner, lease = A.lease, token = A.token, run_id = A.run_id})
  local claim = tell_claim(t)
  save(t, p, now)
  return claim
end

local moments, reply = {}, {}
count_together()
for i = 1, ROWS do
  reply[i + 1] = ROWS == 1 and take(i) or do_beside_others(i == 1, take, i)
end
write_later_counts()
-- What was taken left its space with a bound that has come: made right here, nobody has to look because of it. Once for
-- each space of a partition.
local ahead = {}

local function look_ahead()
  local seen = ahead[K.spaces] or {}
  if not seen[A.space] then
    local key_of_list = A.queues == '*' and list_of() or list_of(split(A.space)[2])
    local bound = redis.call('ZSCORE', key_of_list, A.space)
    if bound and tonumber(bound) <= now then correct(key_of_list, A.space) end
    seen[A.space], seen[''] = true, next_moment(lists_of(A.queues))
    ahead[K.spaces] = seen
  end
  return seen['']
end
for i = 1, ROWS do
  point(i)
  turn_to(i)
  -- A partition whose lists are damaged must not cost the others what was just taken there: it is looked at at once.
  local is_well, at = pcall(look_ahead)
  moments[i] = is_well and at or exact(now)
end
reply[1] = moments
return reply
