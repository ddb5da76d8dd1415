-- probe: may this caller try an endpoint?
-- KEYS: circuits operations
-- ARGV: now once endpoint every
-- USES: record once estimates
-- RETURNS: 1 if the circuit is closed, or for one caller per `every` seconds while it is open.

local now = moment()
local before = recall(now)
if before then return before end
local circuit = circuit_of(A.endpoint)
if not circuit then return remember(now, 1) end
if now < circuit.probe_at then return remember(now, 0) end
circuit.probe_at = now + A.every
redis.call('HSET', K.circuits, A.endpoint, seal(circuit))
return remember(now, 1)
