-- sink_list: how the sinks of a partition stand.
-- KEYS: sinks outbox parked
-- ARGV: most
-- USES: sinks
-- RETURNS: {name, waiting, time of the oldest or '', parked, given up, lost, time of the last loss or ''} of each.
-- GUARANTEE: changes nothing; what waits is counted up to `most`.

local reply = {}
for name, sink in pairs(open_sinks()) do
  local key, given_up, positions = outbox_of(name), 0, parked_positions(name)
  for _, position in ipairs(positions) do
    if get_parked(name, position).given_up then given_up = given_up + 1 end
  end
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local at = oldest and (by_name(oldest[2]).frame or ''):match('^%S+ %S+ (%S+)') or ''
  local lost_at = sink.lost_at and string.format('%.17g', sink.lost_at) or ''
  reply[#reply + 1] = {name, math.min(redis.call('XLEN', key), tonumber(A.most)), at, #positions, given_up,
    sink.lost or 0, lost_at}
end
return reply
