-- Tool calls that wait for somebody: {id, digest, base: JSON members that never change, decision, output, by: JSON,
-- decided_at}.

local function call_json(call)
  local decided = ''
  if call.decision then
    decided = string.format(',"decision":"%s","output":', call.decision) .. (call.output or '""')
      .. ',"by":' .. (call.by or '""') .. (call.decided_at and ',"decided_at":' .. exact(call.decided_at) or '')
  end
  return '{' .. call.base .. decided .. '}'
end

local function calls_json(t)
  if not t.calls then return '[]' end
  local reply = {}
  for i, call in ipairs(t.calls) do reply[i] = call_json(call) end
  return '[' .. table.concat(reply, ',') .. ']'
end
