-- publish: append events of runs in progress to their logs; the hot path, one call for a server and a moment.
-- KEYS: | thread log channel | sinks
-- ARGV: now | a b c
-- USES: live groups
-- RETURNS: for each thread its top offset; or {'gap', published}; {'lost'}; {'long'}: nothing was done, `publish_long` has to
-- do it, which also says what is damaged.
-- GUARANTEE: what was appended before is dropped; a gap and a claim that is not valid append nothing, and leave the other
-- threads alone. Works on a full server.
--
-- For each thread a row of token, n and the number of its events; after it for each event a row of kind, members and text.

local TRIM_EVERY = 64

local with_sinks = {}

-- Whether a sink is open in the partition of this thread; asked once for each partition.
local function has_sinks()
  local key = K.sinks
  if with_sinks[key] == nil then with_sinks[key] = redis.call('EXISTS', key) == 1 end
  return with_sinks[key]
end

-- The events in these rows, from the one that is the next of the run.
local function append(t, first, last)
  local at, frames = A.now, {}
  for i = first, last do
    local kind, members, text = values(i)
    t.top = t.top + 1
    if kind == 'delta' then t.deltas = t.deltas + 1 end
    local frame = string.format('%d %s %s %d %d\n', t.top, kind, at, #members, #text) .. members .. text
    redis.call('XADD', K.log, string.format('%d-0', t.top), 'f', frame)
    frames[#frames + 1] = frame
  end
  local count = last - first + 1
  t.published, t.untrimmed = t.published + count, t.untrimmed + count
  redis.call('HSET', K.thread, 'live', live_value(t))
  redis.pcall(PUBLISH, K.channel, t.epoch .. '\n' .. table.concat(frames))
end

local function publish(token, n, first, last)
  local raw = redis.call('HGET', K.thread, 'live')
  if not raw then return {'lost'} end
  local t = read_live(raw)
  if t.token ~= token then return {'lost'} end
  if n > t.published then return {'gap', t.published} end
  local skipped = t.published - n
  if skipped > last - first then return t.top end
  if has_sinks() or t.untrimmed + last - first + 1 >= TRIM_EVERY then return {'long'} end
  free()
  append(t, first + skipped, last)
  return t.top
end

local reply, row_number = {}, 1
for group = 1, GROUPS do
  point(group)
  local token, n, count = values(row_number)
  local last = row_number + tonumber(count)
  local is_done, answer = pcall(publish, token, tonumber(n), row_number + 1, last)
  if not is_done and is_refusal(answer) then error(answer) end
  reply[group] = is_done and answer or {'long'}
  row_number = last + 1
end
return reply
