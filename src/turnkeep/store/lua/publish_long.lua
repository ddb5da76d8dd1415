-- publish_long: as `publish`, where the log is to be trimmed or a sink is open.
-- KEYS: thread log finals snapshot channel sinks outbox meta
-- ARGV: now policy token n | kind members text
-- USES: live record sinks log trim
-- RETURNS: {'top', offset}; {'gap', published}; or {'lost'}.
-- GUARANTEE: what was appended before is dropped; a gap and a claim that is not valid append nothing. Works on a full
-- server.

local t = read_head()
if not t or t.state ~= 'leased' or t.token ~= A.token then return {'lost'} end
local n = tonumber(A.n)
if n > t.published then return {'gap', t.published} end
t.out = {events = {}}
for i = t.published - n + 1, ROWS do
  local kind, members, text = values(i)
  emit(t, kind, members, text)
  if kind == 'delta' then t.deltas = t.deltas + 1 end
  t.published = t.published + 1
end
if #t.out.events == 0 then return {'top', t.top} end
local now, top = moment(), t.top
free()
write_events(t, t.out.events, now)
if t.untrimmed >= TRIM_EVERY then trim(t, policy(A.policy), now) end
redis.call('HSET', K.thread, 'live', live_value(t), 'head', sealed_head(t))
return {'top', top}
