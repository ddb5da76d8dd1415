-- counts: how much is where in one partition.
-- KEYS: due counters threads
-- ARGV: now tenant queue
-- USES: record ready
-- RETURNS: active, held, paused, waiting, delayed, completed, failed, open messages, dead letters, threads, oldest wait.
-- GUARANTEE: changes nothing. '*' stands for any tenant, any queue.

local now, names = moment(), {'active', 'held', 'paused', 'open', 'completed', 'failed', 'dead'}
local sums, spaces, oldest = {waiting = 0, delayed = 0, threads = 0}, {}, now
for _, name in ipairs(names) do sums[name] = 0 end

local function is_asked(parts)
  return (A.tenant == '*' or parts[1] == A.tenant) and (A.queue == '*' or parts[2] == A.queue)
end

local counters = redis.call('HGETALL', K.counters)
for i = 1, #counters, 2 do
  local parts = split(counters[i])
  if is_asked(parts) and sums[parts[3]] then
    sums[parts[3]] = sums[parts[3]] + counters[i + 1]
  end
end

-- The spaces with threads, from one to the next.
local from = '-'
while true do
  local entry = redis.call('ZRANGEBYLEX', K.threads, from, '+', 'LIMIT', 0, 1)[1]
  if not entry then break end
  local parts = split(entry)
  local space = parts[1] .. '\0' .. parts[2]
  if is_asked(parts) then spaces[#spaces + 1] = space end
  from = '(' .. space .. '\1'
end

for _, space in ipairs(spaces) do
  local first, border, last = '[' .. space .. '\0', '(' .. space .. '\0' .. stamp(now) .. '\1', '(' .. space .. '\1'
  local waiting = redis.call('ZLEXCOUNT', K.due, first, border)
  sums.waiting = sums.waiting + waiting
  sums.delayed = sums.delayed + redis.call('ZLEXCOUNT', K.due, first, last) - waiting
  sums.threads = sums.threads + redis.call('ZLEXCOUNT', K.threads, first, last)
  local entry = waiting > 0 and redis.call('ZRANGEBYLEX', K.due, first, border, 'LIMIT', 0, 1)[1]
  if entry then oldest = math.min(oldest, tonumber(moment_of(space, entry))) end
end
return {sums.active, sums.held, sums.paused, sums.waiting, sums.delayed, sums.completed, sums.failed, sums.open, sums.dead,
  sums.threads, math.floor(now - oldest)}
