-- sink_delivered: store the position of a sink, for its owner only, and park what could not be delivered before it.
-- KEYS: sinks outbox parked
-- ARGV: now sink owner position most | place reason
-- USES: record sinks
-- RETURNS: 'ok', 'lost' or 'absent'.
-- GUARANTEE: a position never goes back; what is parked already stays as it is.

local function park(name, position, reason, now)
  local id = id_of(position)
  local entry = redis.call('XRANGE', outbox_of(name), id, id)[1]
  if not entry or get_parked(name, position) then return end
  local parked = by_name(entry[2])
  if not parked.frame then return end
  parked.reason, parked.failed_at = reason, reason ~= '' and now or nil
  put_parked(name, position, parked)
end

-- The oldest go first, those that were given up before all.
local function bound_parked(name, sink, now)
  local positions = parked_positions(name)
  local surplus = #positions - tonumber(A.most)
  if surplus <= 0 then return end
  local given_up, others = {}, {}
  for _, position in ipairs(positions) do
    local list = get_parked(name, position).given_up and given_up or others
    list[#list + 1] = position
  end
  for i = 1, surplus do
    redis.call('HDEL', K.parked, parked_field(name, given_up[i] or others[i - #given_up]))
  end
  lose(name, sink, surplus, now)
end

local sink, now = get_sink(A.sink), moment()
if not sink then return 'absent' end
if sink.owner ~= A.owner then return 'lost' end
for i = 1, ROWS do
  local place, reason = values(i)
  park(A.sink, place, reason, now)
end
if A.position > sink.position then sink.position = A.position end
put_sink(A.sink, sink)
if ROWS > 0 then bound_parked(A.sink, sink, now) end
local time, place = id_of(sink.position):match('^(%d+)-(%d+)$')
redis.call('XTRIM', outbox_of(A.sink), 'MINID', string.format('%s-%.0f', time, tonumber(place) + 1))
return 'ok'
