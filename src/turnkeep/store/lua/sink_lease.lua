-- sink_lease: become or stay the only one who delivers this partition to a sink.
-- KEYS: sinks
-- ARGV: now sink owner lease
-- USES: record sinks
-- RETURNS: {'held', position}; {'taken'}; or {'absent'}.
-- GUARANTEE: two owners never hold it at one moment.

local sink, now = get_sink(A.sink), moment()
if not sink then return {'absent'} end
if sink.owner ~= '' and sink.owner ~= A.owner and sink.until_ > now then return {'taken'} end
sink.owner, sink.until_ = A.owner, now + A.lease
put_sink(A.sink, sink)
return {'held', sink.position}
