-- wipe: delete a damaged thread by force; what its record would have told is taken from its keys.
-- KEYS: @thread @partition dead dead_ids dead_places quarantine operations
-- ARGV: now once space channel
-- USES: record once dead_letters
-- RETURNS: {'ok', 1 if anything was there}.
-- GUARANTEE: every trace that can be found is gone; that of its message ids too, for without the record they tell nothing.

local now = moment()
local before = recall(now)
if before then return before end
local who, removals = A.space .. '\0' .. A.channel, 0
removals = redis.call('DEL', K.thread, K.inbox, K.delayed, K.log, K.finals, K.known, K.history, K.snapshot)
for _, key in ipairs({K.due, K.ends}) do
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', key, '[' .. A.space .. '\0', '(' .. A.space .. '\1')) do
    if entry:sub(#A.space + 22) == '\0' .. A.channel then redis.call('ZREM', key, entry) end
  end
end
for _, entry in ipairs(redis.call('ZRANGE', K.leases, 0, -1)) do
  if entry:sub(-#who - 1) == '\0' .. who then redis.call('ZREM', K.leases, entry) end
end
redis.call('ZREM', K.threads, who)
redis.pcall('ZREM', activity_of(A.space), A.channel)
redis.call('ZREM', K.aging, who)
redis.call('HDEL', K.quarantine, who)
discard_all(A.space, A.channel)
forget_replies(K.thread)
return remember(now, {'ok', removals > 0 and 1 or 0})
