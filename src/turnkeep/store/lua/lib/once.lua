-- What operations did: replies by operation id, in a hash beside the threads, because they outlive them. A value is the
-- moment until which it counts, then the sealed reply; field '' holds the bytes of all. Ids that begin with 'm' are minted
-- by the engine for its own repeats, those with 'k' come from a caller, who may repeat after hours. A reply that holds
-- what was said carries the name of its thread (`owner`) behind the id, and goes with it.

local KEPT = {m = 600, k = 86400}
local MOST, MOST_BYTES = 4096, 8388608 -- of one hash; beyond either the older half goes

-- What this operation replied when it was done before. What makes no sense counts as nothing: it must not stop threads,
-- and a hash of another type is dropped, for it holds nothing else.
local function recall(now, owner)
  local raw = redis.pcall('HGET', K.operations, A.once .. (owner or ''))
  if type(raw) == 'table' then
    redis.call('DEL', K.operations)
    return nil
  end
  local until_, sealed = (raw or ''):match('^(%S+) (.*)$')
  if (tonumber(until_) or 0) <= now then return nil end
  local is_whole, reply = pcall(unseal, sealed, 'operation')
  return is_whole and reply or nil
end

local function forget_operations(now)
  local all, left, bytes = redis.call('HGETALL', K.operations), {}, 0
  for i = 1, #all, 2 do
    local until_ = tonumber(all[i + 1]:match('^(%S+) '))
    if all[i] ~= '' and until_ and until_ > now then left[#left + 1] = {until_, all[i], #all[i + 1]} end
  end
  table.sort(left, function(a, b) return a[1] > b[1] end)
  local youngest = {}
  for i = 1, math.min(#left, MOST / 2) do
    if bytes + left[i][3] > MOST_BYTES / 2 then break end
    youngest[left[i][2]], bytes = true, bytes + left[i][3]
  end
  for i = 1, #all, 2 do
    if not youngest[all[i]] then redis.call('HDEL', K.operations, all[i]) end
  end
  redis.call('HSET', K.operations, '', bytes)
end

-- The server forgets a hash that nobody adds to (there is one for each account and each pace), but none in which a caller
-- named anything: somebody may set its clock, and end a day early.
local function keep_operations(is_new)
  if A.once:sub(1, 1) == 'k' then
    redis.call('PERSIST', K.operations)
  elseif is_new or redis.call('TTL', K.operations) > 0 then
    redis.call('EXPIRE', K.operations, 2 * KEPT.k)
  end
end

-- Keep the reply of an operation that is done. Works on a full server.
local function remember(now, reply, owner)
  local is_new = redis.call('EXISTS', K.operations) == 0
  local text = exact(now + KEPT[A.once:sub(1, 1)]) .. ' ' .. seal(reply)
  redis.call('HDEL', K.operations, ' ')
  redis.call('HSET', K.operations, A.once .. (owner or ''), text)
  local bytes = redis.pcall('HINCRBY', K.operations, '', #text)
  if type(bytes) == 'table' or bytes > MOST_BYTES or redis.call('HLEN', K.operations) > MOST then forget_operations(now) end
  keep_operations(is_new)
  return reply
end

-- What was said goes with its thread; that the operation was done stays known.
local function forget_replies(owner)
  local gone = seal({'absent'})
  for _, id in ipairs(redis.call('HKEYS', K.operations)) do
    if id:sub(-#owner) == owner then
      local until_ = redis.call('HGET', K.operations, id):match('^(%S+) ') or '0'
      redis.call('HSET', K.operations, id, until_ .. ' ' .. gone)
    end
  end
end
