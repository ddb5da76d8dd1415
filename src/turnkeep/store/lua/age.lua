-- age: what the passing of time does to one thread: it expires, its log ages, message ids are forgotten.
-- KEYS: @thread @partition
-- ARGV: now policy space channel may_delete
-- USES: live record sinks log trim save message_ids
-- RETURNS: 1 if the thread was deleted.
-- GUARANTEE: only idle threads are deleted. Writes when to look again into `aging`. Works on a full server.

local IDS = 1000 -- ids forgotten at once

local p, now = policy(A.policy), moment()
local t = load()
local entry = A.space .. '\0' .. A.channel
if not t then
  local past = redis.call('HGET', K.known, '~')
  if past and unseal(past, 'known').until_ > now then
    redis.call('ZADD', K.aging, unseal(past, 'known').until_, entry)
  else
    redis.call('DEL', K.known)
    redis.call('ZREM', K.aging, entry)
  end
  redis.call('ZREM', K.threads, entry)
  return 0
end
if is_over(t, p, now) then
  if A.may_delete == '0' then return 0 end
  erase(t, p, now)
  return 1
end

local function forget_closing(n, closing)
  for _, id in ipairs(closing.ids) do
    local record = record_of(t, id)
    local is_older = record and not record.closed and record.seq and record.seq >= closing.lo and record.seq <= closing.hi
    if record and (record.closed == n or is_older) then redis.call('HDEL', K.known, 'm:' .. id) end
  end
  redis.call('HDEL', K.known, 'c:' .. n)
end

local function forget_ids()
  local left = IDS
  while t.closed_from <= t.closed_to and left > 0 do
    local closing = closing_at(t.closed_from)
    if closing and closing.forget_at > now then return closing.forget_at end
    if closing then
      forget_closing(t.closed_from, closing)
      left = left - #closing.ids
    end
    t.closed_from = t.closed_from + 1
  end
  return left <= 0 and now or nil
end

local forget_at = forget_ids()
trim(t, p, now)
local at = t.active_at + (t.ttl or p.expiry)
if t.state ~= 'idle' or redis.call('XLEN', K.log) > 0 then at = math.min(at, now + p.log_age) end
if forget_at then at = math.min(at, forget_at) end
t.aging = math.max(at, now + 1)
t.out.aging = t.aging
free()
save(t, p, now)
return 0
