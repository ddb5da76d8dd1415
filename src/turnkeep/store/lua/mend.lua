-- mend: close a circuit.
-- KEYS: circuits operations
-- ARGV: now once endpoint
-- USES: record once estimates
-- RETURNS: 1 if it was open.

local now = moment()
local before = recall(now)
if before then return before end
return remember(now, circuit_of(A.endpoint) and redis.call('HDEL', K.circuits, A.endpoint) or 0)
