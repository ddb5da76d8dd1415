-- publish: append events of a run in progress to its log; the hot path, one call for each token.
-- KEYS: thread log channel sinks
-- ARGV: now token n | kind members text
-- USES: live
-- RETURNS: {'top', offset}; {'gap', published}; {'lost'}; or {'long'}: nothing was done, `publish_long` has to do it.
-- GUARANTEE: what was appended before is dropped; a gap and a claim that is not valid append nothing. Works on a full
-- server.

local TRIM_EVERY = 64

local raw = redis.call('HGET', K.thread, 'live')
if not raw then return {'lost'} end
local t = read_live(raw)
if t.token ~= A.token then return {'lost'} end
local n = tonumber(A.n)
if n > t.published then return {'gap', t.published} end
if t.untrimmed + ROWS >= TRIM_EVERY or redis.call('EXISTS', K.sinks) == 1 then return {'long'} end
free()

local at, frames = A.now, {}
for i = t.published - n + 1, ROWS do
  local kind, members, text = values(i)
  t.top, t.published, t.untrimmed = t.top + 1, t.published + 1, t.untrimmed + 1
  if kind == 'delta' then t.deltas = t.deltas + 1 end
  redis.call('XADD', K.log, t.top .. '-0', 'k', kind, 'a', at, 'm', members, 'x', text)
  frames[#frames + 1] = ('%d %s %s %d %d\n'):format(t.top, kind, at, #members, #text) .. members .. text
end
if #frames > 0 then
  redis.call('HSET', K.thread, 'live', live_text(t))
  redis.pcall(PUBLISH, K.channel, t.epoch .. '\n' .. table.concat(frames))
end
return {'top', t.top}
