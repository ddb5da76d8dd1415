-- greet: tell a partition which server it is on; a new one may have lost the last moment, so the epochs change.
-- KEYS: meta
-- ARGV: server
-- RETURNS: the incarnation of the partition.
-- GUARANTEE: again by the same server: the same.

local server = redis.call('HGET', K.meta, 'server')
if server == A.server then return tonumber(redis.call('HGET', K.meta, 'incarnation') or 0) end
redis.call('HSET', K.meta, 'server', A.server)
return redis.call('HINCRBY', K.meta, 'incarnation', server and 1 or 0)
