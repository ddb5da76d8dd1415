-- tidy: what the passing of time does to a partition.
-- KEYS: redriven
-- ARGV: now
-- USES: record
-- RETURNS: how many entries were dropped.
-- GUARANTEE: drops only what counts for nothing any more.

local now, dropped = moment(), 0
local redriven = redis.call('HGETALL', K.redriven)
for i = 1, #redriven, 2 do
  if unseal(redriven[i + 1], 'redriven').until_ <= now then dropped = dropped + redis.call('HDEL', K.redriven, redriven[i]) end
end
return dropped
