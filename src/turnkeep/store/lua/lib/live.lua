-- From here on a full server refuses nothing: it refuses a script only until it has written something that frees.
local function free()
  redis.call('HDEL', K.thread, '')
end

-- The field `live` of a leased thread: what changes with every token, so that a token costs little:
-- "token epoch top published deltas untrimmed check", where check tells damage from numbers.

local LIVE = '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$'

local function live_check(top, published, deltas, untrimmed)
  return (top * 7 + published * 31 + deltas * 127 + untrimmed * 8191) % 999983
end

local function live_text(t)
  return string.format('%s %s %.0f %.0f %.0f %.0f %.0f', t.token, t.epoch, t.top, t.published, t.deltas, t.untrimmed,
    live_check(t.top, t.published, t.deltas, t.untrimmed))
end

-- The fields of a leased thread that `live` holds.
local function read_live(raw)
  local token, epoch, top, published, deltas, untrimmed, check = (raw or ''):match(LIVE)
  if not token then error('DAMAGED live', 0) end
  local t = {token = token, epoch = epoch, top = tonumber(top), published = tonumber(published), deltas = tonumber(deltas),
    untrimmed = tonumber(untrimmed)}
  if live_check(t.top, t.published, t.deltas, t.untrimmed) ~= tonumber(check) then error('DAMAGED live', 0) end
  return t
end
