-- How much of a log is kept. Of the run in progress everything, its older deltas rolled into one snapshot; before it
-- the newest events that are not too old, and beyond those the final ones, in a list of their own (a stream would take
-- 4 kB for each idle thread).
-- SELDOM: trim

local TRIM_EVERY = 64
local PAGE = 128

-- The first one by itself: mostly it is to stay, and a page of others was read for nothing.
local function entries_of_log(from, to, use)
  local many = 1
  while true do
    local page = redis.call('XRANGE', K.log, string.format('%d-0', from), to, 'COUNT', many)
    for _, entry in ipairs(page) do
      local event = frame_in(entry)
      local offset = tonumber(event:match('^%d+'))
      if use(offset, event) then return end
      from = offset + 1
    end
    if #page < many then return end
    many = PAGE
  end
end

-- Remove what lies before `surplus` or before the moment `oldest`, up to `last`; keep the final events.
local function cut_log(t, p, last, surplus, oldest)
  local done = t.cut
  entries_of_log(t.cut + 1, string.format('%.0f-0', last), function(offset, event)
    local kind, at = event:match('^%d+ (%S+) (%S+)')
    if offset > surplus and tonumber(at) >= oldest then return true end
    if FINAL[kind] then
      redis.call('RPUSH', K.finals, event)
    else
      t.floor = math.max(t.floor, offset)
    end
    done = offset
  end)
  if done == t.cut then return end
  t.cut = done
  redis.call('XTRIM', K.log, 'MINID', string.format('%.0f-0', done + 1))
  if redis.call('XLEN', K.log) == 0 then redis.call('DEL', K.log) end
  -- What goes here lies below the floor already: each turn begins with an event that is not final, and is cut too.
  if redis.call('LLEN', K.finals) > p.log_events then redis.call('LTRIM', K.finals, -p.log_events, -1) end
  if t.snapshot and t.snapshot.offset <= done then
    redis.call('DEL', K.snapshot)
    t.snapshot = nil
  end
end

-- All but the newest deltas of the run in progress become one snapshot in the place of the last rolled one.
local function roll(t, p)
  local surplus = t.deltas - p.log_events
  if not t.live_from or surplus <= 0 then return end
  if t.snapshot and t.snapshot.offset < t.live_from then cut_log(t, p, t.live_from - 1, t.live_from - 1, 0) end
  local is_grown, parts, last = t.snapshot ~= nil, {}, nil
  local left = surplus
  entries_of_log(is_grown and t.snapshot.offset + 1 or t.live_from, '+', function(offset, event)
    local _, kind, at, members, text = parts_of(event)
    if kind ~= 'delta' and kind ~= 'snapshot' then return false end
    if kind == 'snapshot' then is_grown, parts = false, {} else left = left - 1 end
    parts[#parts + 1] = text
    last = {offset = offset, at = at, members = members}
    redis.call('XDEL', K.log, string.format('%.0f-0', offset))
    return left == 0
  end)
  redis.call(is_grown and 'APPEND' or 'SET', K.snapshot, table.concat(parts))
  t.snapshot, t.deltas, t.floor = last, t.deltas - surplus, last.offset
end

local function trim(t, p, now)
  local last = (t.live_from or t.top + 1) - 1
  cut_log(t, p, last, last - p.log_events, now - p.log_age)
  roll(t, p)
  t.untrimmed = 0
end
