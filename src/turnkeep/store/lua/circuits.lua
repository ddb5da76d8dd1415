-- circuits: all open circuits.
-- KEYS: circuits
-- USES: record estimates
-- RETURNS: {endpoint, {opened_at, probe_at, fault}, …}.
-- GUARANTEE: changes nothing but what is damaged.

local reply = {}
for _, endpoint in ipairs(endpoints()) do
  local circuit = circuit_of(endpoint)
  if circuit then
    reply[#reply + 1] = endpoint
    reply[#reply + 1] = {exact(circuit.opened_at), exact(circuit.probe_at), circuit.fault}
  end
end
return reply
