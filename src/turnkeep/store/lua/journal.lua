-- journal: append records of the run; the first one freezes the batch for good.
-- KEYS: @thread @partition
-- ARGV: now policy thread_id token | n text steered_through
-- USES: live record sinks log trim save message_ids inbox calls turns
-- RETURNS: {'ok'}; {'gap', n, records}; or {'lost'}.
-- GUARANTEE: a record whose place is taken is dropped; a gap stores nothing of the call. Works on a full server.

local p, now = policy(A.policy), moment()
local t = load()
if not is_owned(t) then return {'lost'} end

local function take_steered(through)
  local places = {}
  while t.batch < t.inbox and open_at(t, t.batch + 1).seq <= through do
    t.batch = t.batch + 1
    places[#places + 1] = t.batch
    if open_at(t, t.batch).steer then t.steering = t.steering - 1 end
  end
  end_steering(t, places, 'applied', t.run_id)
end

for i = 1, ROWS do
  local record = row(i)
  local n = tonumber(record.n)
  if n > t.journal then return {'gap', n, t.journal} end
  if n == t.journal then
    t.out.fields[#t.out.fields + 1] = 'j:' .. n
    t.out.fields[#t.out.fields + 1] = record.text
    t.journal, t.frozen, t.out.is_changed = n + 1, true, true
    if record.steered_through ~= '' then take_steered(tonumber(record.steered_through)) end
  end
end
if t.out.is_changed then
  free()
  save(t, p, now)
end
return {'ok'}
