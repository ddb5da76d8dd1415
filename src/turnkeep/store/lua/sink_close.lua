-- sink_close: forget a sink and what was kept for it alone.
-- KEYS: sinks outbox
-- ARGV: sink
-- USES: sinks
-- RETURNS: 1 if it was open.

local removed = redis.call('HDEL', K.sinks, A.sink)
forget_delivered()
return removed
