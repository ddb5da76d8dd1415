-- sink_open: from now on the outbox of this partition keeps events for a sink.
-- KEYS: sinks outbox operations
-- ARGV: now once sink
-- USES: record once sinks
-- RETURNS: 1 if it is new.

local now = moment()
local before = recall(now)
if before then return before end
if redis.call('HEXISTS', K.sinks, A.sink) == 1 then return remember(now, 0) end
put_sink(A.sink, {since = last_position(), position = '', owner = '', until_ = 0})
return remember(now, 1)
