-- trip: open a circuit, or keep it open as it is.
-- KEYS: circuits operations
-- ARGV: now once endpoint fault probe_in
-- USES: record once estimates
-- RETURNS: opened_at, probe_at, fault.
-- GUARANTEE: the first one to open it is remembered.

local now = moment()
local before = recall(now)
if before then return before end
local circuit_before = circuit_of(A.endpoint)
local circuit = circuit_before or {opened_at = now, probe_at = now + A.probe_in, fault = A.fault}
if not circuit_before then redis.call('HSET', K.circuits, A.endpoint, seal(circuit)) end
return remember(now, {exact(circuit.opened_at), exact(circuit.probe_at), circuit.fault})
