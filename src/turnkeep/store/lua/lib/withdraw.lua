-- Taking messages back.

local function remove_delayed(t, is_gone)
  local first
  for _, m in ipairs(t.delayed > 0 and delayed_messages(t) or {}) do
    local uid = string.format('%012d', m.uid)
    if is_gone[m.id] then
      t.delayed = t.delayed - 1
      t.out.undelayed[#t.out.undelayed + 1] = uid
      t.out.dropped[#t.out.dropped + 1] = 'd:' .. uid
    else
      first = first or m.not_before
    end
  end
  t.delayed_at = first
end

-- `dropped` are messages of the inbox and beside it, in this order.
local function drop(t, p, now, dropped)
  local is_gone, ids, out = {}, {}, t.out
  for i, m in ipairs(dropped) do
    is_gone[m.id], ids[i] = true, m.id
    emit(t, 'withdrawn', '{"message_ids":' .. ids_json({m.id}) .. '}')
    out.dropped[#out.dropped + 1] = 'b:' .. m.uid
  end
  if #ids > 0 then
    local n = close_ids(t, p, now, {lo = t.closed_seq, hi = t.closed_seq, status = 'withdrawn', ids = ids})
    for _, id in ipairs(ids) do amend(t, id, 'closed', n) end
    remove(t, is_gone)
    remove_delayed(t, is_gone)
  end
  if not is_busy(t) or (t.state == 'retry' and t.batch == 0 and t.inbox == 0) then rest(t, p, now) end
end
