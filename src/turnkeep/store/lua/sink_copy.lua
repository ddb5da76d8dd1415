-- sink_copy: open a sink as another partition has it, to begin with all that waits here.
-- KEYS: sinks
-- ARGV: sink state with_losses
-- USES: record sinks
-- RETURNS: 1 if it is new.
-- GUARANTEE: again: the same. Nobody owns it, and what was lost is told where `with_losses` is '1' alone.

local sink = read_sink(A.state)
sink.position, sink.owner, sink.until_ = '', '', 0
if A.with_losses ~= '1' then sink.lost, sink.lost_at = 0, nil end
return put_sink(A.sink, sink)
