-- mend: close a circuit.
-- KEYS: circuits operations
-- ARGV: now once endpoint
-- USES: record once
-- RETURNS: 1 if it was open.

local now = moment()
return recall(now) or remember(now, redis.call('HDEL', K.circuits, A.endpoint))
