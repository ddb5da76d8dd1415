-- ready: what is due in some partitions, and when to look again.
-- KEYS: | spaces due ends
-- ARGV: now limit queues turn
-- USES: record ready
-- RETURNS: the time; then for each partition {next moment or '', index, entry, index, entry, …}.
-- GUARANTEE: changes nothing but the lower bounds in `spaces`, which it corrects. `queues` are joined by NUL, '*' for all;
-- `turn` rises with each look, so that those behind the longest have their turn.

local now, reply = moment(), {}
for i = 1, GROUPS do
  point(i)
  local lists = lists_of(A.queues)
  local ready = tell_ready(now, tonumber(A.limit), lists, tonumber(A.turn))
  table.insert(ready, 1, next_moment(lists))
  reply[i] = ready
end
return {exact(now), unpack(reply)}
