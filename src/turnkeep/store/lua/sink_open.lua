-- sink_open: from now on the outbox of this partition keeps events for a sink.
-- KEYS: sinks outbox
-- ARGV: sink
-- USES: sinks
-- RETURNS: 1 if it is new.
-- GUARANTEE: again: nothing.

if redis.call('HEXISTS', K.sinks, A.sink) == 1 then return 0 end
return put_sink(A.sink, {since = last_position(), position = '', owner = '', until_ = 0})
