-- probe: may this caller try an endpoint?
-- KEYS: circuits
-- ARGV: now endpoint every
-- USES: record
-- RETURNS: 1 if the circuit is closed, or for one caller per `every` seconds while it is open.

local now = moment()
local raw = redis.call('HGET', K.circuits, A.endpoint)
if not raw then return 1 end
local circuit = unseal(raw, 'circuit')
if now < circuit.probe_at then return 0 end
circuit.probe_at = now + A.every
redis.call('HSET', K.circuits, A.endpoint, seal(circuit))
return 1
