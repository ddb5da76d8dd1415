-- sink_open: from now on this partition keeps for a sink what it selects.
-- KEYS: sinks outbox operations
-- ARGV: now once sink tenant queue finals
-- USES: record once sinks
-- RETURNS: 1 if it is new.
-- GUARANTEE: of a sink that is open it changes the selection and nothing else. What waited in the outbox that all sinks shared, in layout 1, is
-- handed to each of them.

-- Ids of a shared entry and of a new one never meet: both come from the clock of the server, and it is asked once.
local function part_the_outbox()
  for name, sink in pairs(open_sinks()) do
    local since = sink.since and sink.since > sink.position and sink.since or sink.position
    for _, entry in ipairs(redis.call('XRANGE', K.outbox, '(' .. id_of(since), '+')) do
      redis.call('XADD', outbox_of(name), '*', unpack(entry[2]))
    end
    sink.since = nil
    put_sink(name, sink)
  end
  redis.call('DEL', K.outbox)
end

local now = moment()
local before = recall(now)
if before then return before end
if redis.call('EXISTS', K.outbox) == 1 then part_the_outbox() end
local sink = get_sink(A.sink)
local is_new = not sink
sink = sink or {position = '', owner = '', until_ = 0, lost = 0}
sink.tenant, sink.queue, sink.finals = A.tenant, A.queue, A.finals == '1'
put_sink(A.sink, sink)
return remember(now, is_new and 1 or 0)
