-- sink_read: events after a position, in the order of the partition.
-- KEYS: sinks outbox
-- ARGV: sink after limit
-- USES: sinks
-- RETURNS: {'entries', {position, {field, value, …}}, …}; or {'absent'}.
-- GUARANTEE: changes nothing.

if not get_sink(A.sink) then return {'absent'} end
local reply = {'entries'}
for i, entry in ipairs(redis.call('XRANGE', outbox_of(A.sink), '(' .. id_of(A.after), '+', 'COUNT', A.limit)) do
  reply[i + 1] = {position_of(entry[1]), entry[2]}
end
return reply
