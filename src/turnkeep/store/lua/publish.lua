-- publish: append events of a run in progress to its log.
-- KEYS: thread log finals snapshot channel sinks outbox
-- ARGV: now policy token n | kind members text
-- USES: record log trim
-- RETURNS: {'top', offset}; {'gap', published}; or {'lost'}.
-- GUARANTEE: what was appended before is dropped; a gap and a claim that is not valid append nothing.

local raw = redis.call('HGET', K.thread, 'live')
if not raw then return {'lost'} end
local token, epoch, top, published, deltas, untrimmed = unseal_text(raw, 'live'):match(LIVE)
if token ~= A.token then return {'lost'} end
local n = tonumber(A.n)
local t = {token = token, epoch = epoch, top = tonumber(top), published = tonumber(published), deltas = tonumber(deltas),
  untrimmed = tonumber(untrimmed), out = {events = {}}}
if n > t.published then return {'gap', t.published} end
if n + ROWS <= t.published then return {'top', t.top} end

for i = t.published - n + 1, ROWS do
  local event = row(i)
  emit(t, event.kind, event.members, event.text)
  if event.kind == 'delta' then t.deltas = t.deltas + 1 end
  t.published = t.published + 1
end

-- The whole thread is read only when somebody needs more of it.
local function whole()
  local head = with_defaults(unseal(redis.call('HGET', K.thread, 'head'), 'head'))
  head.top, head.published, head.deltas, head.untrimmed, head.out = t.top, t.published, t.deltas, t.untrimmed, t.out
  return head
end

local now = moment()
local is_long = t.untrimmed + #t.out.events >= TRIM_EVERY
local fields = {}
if is_long or redis.call('EXISTS', K.sinks) == 1 then t = whole() end
write_events(t, t.out.events, now)
if is_long then
  trim(t, policy(), now)
  fields = {'head', seal(without_defaults(t))}
end
redis.call('HSET', K.thread, 'live', seal_text(live_text(t)), unpack(fields))
return {'top', t.top}
