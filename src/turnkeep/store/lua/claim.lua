-- claim: take one thread that an index says is due.
-- KEYS: @thread @partition
-- ARGV: now policy index entry owner lease token run_id
-- USES: live record sinks log trim save message_ids inbox calls turns claims
-- RETURNS: {'claim', …}; nothing when the thread is not due (any more).
-- GUARANTEE: with the token of the claim that is valid now, that claim again. An index entry that is wrong is removed.

local p, now = policy(A.policy), moment()
local t = load()
if t and t.state == 'leased' and t.token == A.token then return tell_claim(t) end
if not t then
  redis.call('ZREM', index_of(A.index), A.entry)
  return false
end

local function is_ready()
  return t.state ~= 'idle' and (not t.paused or t.state == 'leased') and t.due and t.due <= now
end

-- The last owner vanished: count a death on the oldest message; what was not frozen dissolves.
local function bury()
  local oldest = touch(t, 1)
  oldest.deaths = (oldest.deaths or 0) + 1
  let_go(t)
end

local function leave()
  if t.out.is_changed then
    save(t, p, now)
  elseif not t.indexed or A.entry ~= entry_at(t, t.indexed[2]) or A.index ~= t.indexed[1] then
    redis.call('ZREM', index_of(A.index), A.entry)
  end
  return false
end

ripen(t, p, now)
if not is_ready() then return leave() end
if t.state == 'leased' then
  bury()
  if t.paused then
    t.out.is_changed = true
    rest(t, p, now)
    return leave()
  end
end
if t.state == 'held' and not t.stop then decline(t, 'expired') end
lease_thread(t, p, now)
local claim = tell_claim(t)
save(t, p, now)
return claim
