-- sink_delivered: store the position of a sink, for its owner only.
-- KEYS: sinks outbox
-- ARGV: sink owner position
-- USES: sinks
-- RETURNS: 'ok', 'lost' or 'absent'.
-- GUARANTEE: a position never goes back.

local sink = get_sink(A.sink)
if not sink then return 'absent' end
if sink.owner ~= A.owner then return 'lost' end
if A.position > sink.position then sink.position = A.position end
put_sink(A.sink, sink)
forget_delivered()
return 'ok'
