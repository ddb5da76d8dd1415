-- circuits: all open circuits.
-- KEYS: circuits
-- USES: record
-- RETURNS: {endpoint, {opened_at, probe_at, fault}, …}.
-- GUARANTEE: changes nothing.

local told, found = {}, redis.call('HGETALL', K.circuits)
for i = 1, #found, 2 do
  local circuit = unseal(found[i + 1], 'circuit')
  told[i] = found[i]
  told[i + 1] = {exact(circuit.opened_at), exact(circuit.probe_at), circuit.fault}
end
return told
