-- clock: the time of the store, which goes on as seconds pass, whatever is done to the clock of the server.
-- KEYS: clock layout
-- ARGV: expected elapsed tolerance
-- RETURNS: the time, how far it is ahead of the server, layout and partitions of the store as they are now.
-- GUARANTEE: it never goes back. A caller tells the time that it `expected`, and how many seconds passed since it was told
-- last; from one that was told nothing yet nothing is learnt. Works on a full server.

-- What is kept: how far the store is `ahead` of the server, and the `last` time that was told.
local function read_clock()
  local fields = redis.pcall('HMGET', K.clock, 'ahead', 'last')
  local ahead, last = tonumber(fields[1]), tonumber(fields[2])
  if fields.err or not (ahead and last) then
    redis.call('DEL', K.clock)
    return 0, nil
  end
  return ahead, last
end

local function plain(number)
  return string.format('%.17g', number)
end

local time = redis.call('TIME')
local wall = time[1] + time[2] / 1000000
local ahead, last = read_clock()
local now, expected, elapsed, tolerance = wall + ahead, tonumber(A.expected), tonumber(A.elapsed), tonumber(A.tolerance)

-- The last time was told since this caller was told one: so it cannot expect less, or more than it counted since.
local is_believed = expected and (not last or (expected >= last - tolerance and expected <= last + elapsed + tolerance))
local best = is_believed and math.max(expected, last or 0) or last
local is_set_back = last and now < last or is_believed and now < expected - tolerance
local is_set_forward = expected and now - (last or expected) > (last and elapsed or 0) + tolerance

if best and (is_set_back or is_set_forward) then
  now = best
  ahead = now - wall
end
if not last or now - last >= 1 or is_set_back or is_set_forward then
  redis.call('HDEL', K.clock, '') -- frees, so that a full server takes it
  redis.call('HSET', K.clock, 'ahead', plain(ahead), 'last', plain(now))
end
local store = redis.pcall('HMGET', K.layout, 'layout', 'partitions')
return {plain(now), plain(ahead), store[1] or '', store[2] or ''}
