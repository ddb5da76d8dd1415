-- sink_parked: what is parked of a sink after a position, or at the places given, in order.
-- KEYS: sinks parked
-- ARGV: sink after limit | place
-- USES: record sinks
-- RETURNS: {'parked', {position, space, channel, thread, epoch, incarnation, frame, reason, failed_at, given_up}, …}; or
-- {'absent'}. Without places the frame is its first line and its members.
-- GUARANTEE: changes nothing.

if not get_sink(A.sink) then return {'absent'} end

local function places()
  local positions = {}
  if ROWS > 0 then
    for i = 1, ROWS do positions[i] = values(i) end
    table.sort(positions)
    return positions
  end
  for _, position in ipairs(parked_positions(A.sink)) do
    if position > A.after and #positions < tonumber(A.limit) then positions[#positions + 1] = position end
  end
  return positions
end

local reply = {'parked'}
for _, position in ipairs(places()) do
  local entry = get_parked(A.sink, position)
  if entry then
    reply[#reply + 1] = {position, entry.space, entry.channel, entry.thread, entry.epoch, entry.incarnation or '0',
      ROWS > 0 and entry.frame or entry.frame:match('^[^\n]*\n'), entry.reason, exact(entry.failed_at),
      entry.given_up and 1 or 0}
  end
end
return reply
