-- sink_read: events after a position, in the order of the partition.
-- KEYS: sinks outbox
-- ARGV: sink after limit
-- USES: sinks
-- RETURNS: {'entries', {position, {field, value, …}}, …}; or {'absent'}.
-- GUARANTEE: changes nothing.

local sink = get_sink(A.sink)
if not sink then return {'absent'} end
local time, place = (A.after > sink.since and A.after or sink.since):match('^(%d+)-(%d+)$')
local told = {'entries'}
local from = string.format('(%.0f-%.0f', tonumber(time), tonumber(place))
for i, entry in ipairs(redis.call('XRANGE', K.outbox, from, '+', 'COUNT', A.limit)) do
  told[i + 1] = {position_of(entry[1]), entry[2]}
end
return told
