-- The transcript: a list with one element per turn: "turn at items bytes tokens user check", a newline, checksum and
-- JSON of the entries. `user` is 1 when a user item is among them, `check` tells damage of what stands before it.

local HEADER = '^((%d+) (%S+) (%d+) (%d+) (%d+) ([01])) (%x+)\n'

local function header_check(header)
  return redis.sha1hex(header):sub(1, 8)
end

local function read_turn(raw)
  local header, turn, at, items, bytes, tokens, user, check = (raw or ''):match(HEADER)
  if not header or header_check(header) ~= check then damaged('history') end
  return {turn = tonumber(turn), at = at, items = tonumber(items), bytes = tonumber(bytes), tokens = tonumber(tokens),
    user = user == '1', raw = raw}
end

-- Add a turn; `tail` is everything after its number and moment.
local function add_turn(t, now, tail)
  if tail == '' then return end
  local about, items, bytes = tail:match('^((%d+) (%d+) %d+ [01])\n')
  local header = string.format('%d %s %s', t.turns, exact(now), about)
  t.items, t.bytes = t.items + items, t.bytes + bytes
  t.out.turn = header .. ' ' .. header_check(header) .. tail:sub(#about + 1)
  t.out.is_recounted, t.transcript_at = true, now
end

-- Which oldest turns go so that the rest is within bounds; the newest turn always stays.
local function plan_history(t, p)
  local gone = t.out.forgotten or 0
  local left = t.out.stored_turns - gone - (t.out.taken_back or 0) + (t.out.turn and 1 or 0)
  while left > 1 and (t.items > p.history_items or t.bytes > p.history_bytes) do
    local turn = read_turn(redis.call('LINDEX', K.history, gone))
    t.items, t.bytes, gone, left = t.items - turn.items, t.bytes - turn.bytes, gone + 1, left - 1
  end
  t.out.forgotten = gone > 0 and gone or nil
end
