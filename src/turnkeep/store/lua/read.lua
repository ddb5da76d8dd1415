-- read: the events after an offset, oldest first.
-- KEYS: thread log finals snapshot meta
-- ARGV: now expiry want after limit
-- USES: live record log
-- RETURNS: {'page', epoch, incarnation, top, floor, live_from or '', frames, and of the deltas that were rolled into one
-- {offset, kind, at, members, text}}; or {'absent'}, {'gone'}.
-- GUARANTEE: changes nothing. Frames come unsorted: final ones that were cut from the log first.

local t = read_head()
if t and is_over(t, {expiry = tonumber(A.expiry)}, moment()) then t = nil end
if A.want ~= '' and (not t or t.thread_id ~= A.want) then return {'gone'} end
if not t then return {'absent'} end

local after = tonumber(A.after)

-- The final events that were cut from the log, from an offset on.
local function finals_after()
  local finals, place, offset = {}, -1, nil
  while after < t.cut do
    local frame = redis.call('LINDEX', K.finals, place)
    offset = frame and (tonumber(frame:match('^%d+')) or damaged('finals'))
    if not offset or offset <= after then break end
    table.insert(finals, 1, frame)
    place = place - 1
  end
  return table.concat(finals)
end

local frames = {finals_after()}
for _, entry in ipairs(redis.call('XRANGE', K.log, string.format('(%d-0', after), '+', 'COUNT', A.limit)) do
  frames[#frames + 1] = frame_in(entry)
end
local reply = {'page', t.epoch, redis.call('HGET', K.meta, 'incarnation') or '0', t.top, t.floor, t.live_from or '',
  table.concat(frames)}
if t.snapshot and t.snapshot.offset > after then
  local rolled = t.snapshot
  reply[#reply + 1] = {rolled.offset, 'snapshot', rolled.at, rolled.members, redis.call('GET', K.snapshot) or damaged('snapshot')}
end
return reply
