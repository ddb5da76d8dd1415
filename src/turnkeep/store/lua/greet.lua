-- greet: tell a partition which server it is on; a new one may have lost the last moment, so the epochs change.
-- KEYS: meta
-- ARGV: server
-- RETURNS: the incarnation of the partition.
-- GUARANTEE: again by the same server: the same. Works on a full server.

local server = redis.call('HGET', K.meta, 'server')
if server == A.server then return tonumber(redis.call('HGET', K.meta, 'incarnation') or 0) end
redis.call('HDEL', K.meta, '') -- frees, so that a full server takes what follows
redis.call('HSET', K.meta, 'server', A.server)
return redis.call('HINCRBY', K.meta, 'incarnation', server and 1 or 0)
