-- publish: append events of runs in progress to their logs; the hot path, one call for a server and a moment.
-- KEYS: | thread log channel | sinks
-- ARGV: now log_events | value
-- USES: live groups sinks
-- RETURNS: for each thread its top offset; or {'gap', published}; {'lost'}; {'long'}: nothing was done, `publish_long` has to
-- do it, which also says what is damaged.
-- GUARANTEE: what was appended before is dropped; a gap and a claim that is not valid append nothing, and leave the other
-- threads alone. Works on a full server.
--
-- For each thread its token, n and the number of its events; after it each event as the rest of its frame (lib/log.lua), all
-- that follows the offset: whoever publishes can write it, and what is put together there is not taken apart and put together
-- here. `log_events` is the smallest number of deltas that one of these logs may hold.

local TRIM_EVERY = 64

local is_watched, log_events = has_sinks(), tonumber(A.log_events)
local has_audience = {}

-- Whether a sink of the partition of this thread takes what a run says; asked once for each partition. Webhooks and replies
-- take only how a turn ends: with one open, each token had the long script.
local function is_for_sinks()
  local key = K.sinks
  if has_audience[key] == nil then
    local has_one = false
    for _, raw in ipairs(redis.call('HVALS', key)) do has_one = has_one or not cmsgpack.unpack(raw).finals end
    has_audience[key] = has_one
  end
  return has_audience[key]
end

-- Read and written as numbers and not as a record: a table for each token was a twentieth of what it cost, and so are six
-- calls of functions.
local function publish(token, n, first, last)
  local raw = redis.call('HGET', K.thread, 'live')
  if not raw then return {'lost'} end
  local top, published, deltas, untrimmed, check, owner, epoch = struct.unpack(LIVE, raw)
  if not is_live(raw, top, published, deltas, untrimmed, check, owner, epoch) then return {'long'} end
  if owner ~= token then return {'lost'} end
  local known = published - n
  if known < 0 then return {'gap', published} end
  first = first + known
  if first > last then return top end
  local count = last - first + 1
  published, untrimmed = published + count, untrimmed + count
  -- So many deltas that the older ones are to become a snapshot. What stands before the run is cut by the act that ends it:
  -- trimmed at each 64th event, most runs paid for a whole script that found nothing to do.
  if untrimmed >= TRIM_EVERY and deltas + count > log_events then return {'long'} end
  if is_watched and is_for_sinks() then return {'long'} end
  if not has_freed then free() end
  local frame, frames = nil, count > 1 and {}
  for i = first, last do
    top = top + 1
    local offset, rest = string.format('%d', top), value(i)
    frame = offset .. rest
    if rest:sub(1, 7) == ' delta ' then deltas = deltas + 1 end
    redis.call('XADD', K.log, offset, 'f', frame)
    if frames then frames[#frames + 1] = frame end
  end
  redis.call('HSET', K.thread, 'live', pack_live(top, published, deltas, untrimmed, token, epoch))
  redis.pcall(PUBLISH, K.channel, epoch .. '\n' .. (frames and table.concat(frames) or frame))
  return top
end

local reply, place = {}, 1
for group = 1, GROUPS do
  point(group)
  local first = place + 3
  local last = first + value(place + 2) - 1
  local is_done, answer = pcall(publish, value(place), value(place + 1), first, last)
  if not is_done and is_refusal(answer) then error(answer) end
  reply[group] = is_done and answer or {'long'}
  place = last + 1
end
return reply
