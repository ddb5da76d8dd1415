local has_freed = false

-- From here on a full server refuses nothing: it refuses a script only until it has written something that frees.
local function free()
  if has_freed then return end
  redis.call('HDEL', K.thread, '')
  has_freed = true
end

-- The field `live` of a leased thread: what changes with every token, so that a token costs little: four numbers and a
-- check that tells damage from numbers, token and epoch. Packed, because a pattern and a format were a third of what a
-- token cost here. Text is how layout 2 wrote it: it lives no longer than a lease.

local LIVE = '<dddddBc0Bc0'
local LIVE_TEXT = '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$'

local function live_check(top, published, deltas, untrimmed)
  return (top * 7 + published * 31 + deltas * 127 + untrimmed * 8191) % 999983
end

local function pack_live(top, published, deltas, untrimmed, token, epoch)
  return struct.pack(LIVE, top, published, deltas, untrimmed, live_check(top, published, deltas, untrimmed),
    #token, token, #epoch, epoch)
end

local function live_value(t)
  return pack_live(t.top, t.published, t.deltas, t.untrimmed, t.token, t.epoch)
end

-- Whether what was unpacked is what was packed.
local function is_live(raw, top, published, deltas, untrimmed, check, token, epoch)
  return #raw == 42 + #token + #epoch and live_check(top, published, deltas, untrimmed) == check
end

-- The seven fields of a packed value, or of a text.
local function unpack_live(raw)
  local is_whole, top, published, deltas, untrimmed, check, token, epoch = pcall(struct.unpack, LIVE, raw)
  if is_whole and #raw == 42 + #token + #epoch then return top, published, deltas, untrimmed, check, token, epoch end
  token, epoch, top, published, deltas, untrimmed, check = raw:match(LIVE_TEXT)
  if not token then error('DAMAGED live', 0) end
  return tonumber(top), tonumber(published), tonumber(deltas), tonumber(untrimmed), tonumber(check), token, epoch
end

-- The fields of a leased thread that `live` holds.
local function read_live(raw)
  local top, published, deltas, untrimmed, check, token, epoch = unpack_live(raw or '')
  if live_check(top, published, deltas, untrimmed) ~= check then error('DAMAGED live', 0) end
  return {token = token, epoch = epoch, top = top, published = published, deltas = deltas, untrimmed = untrimmed}
end
