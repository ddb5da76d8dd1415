-- quarantine: keep claims and the janitor away from a thread whose stored state is damaged.
-- KEYS: thread due ends leases counters aging quarantine operations
-- ARGV: now once space channel reason
-- USES: record once
-- RETURNS: 1 if it is new.
-- GUARANTEE: changes nothing of the thread itself; its record stays for an operator.

local now = moment()
local before = recall(now)
if before then return before end
local who = A.space .. '\0' .. A.channel
local tail = '\0' .. A.channel
for _, key in ipairs({K.due, K.ends}) do
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', key, '[' .. A.space .. '\0', '(' .. A.space .. '\1')) do
    if entry:sub(#A.space + 22) == tail then
      redis.call('ZREM', key, entry)
      redis.call('HINCRBY', K.counters, A.space .. '\0listed', -1)
    end
  end
end
redis.call('ZREM', K.aging, who)
return remember(now, redis.call('HSETNX', K.quarantine, who, exact(now) .. ' ' .. A.reason))
