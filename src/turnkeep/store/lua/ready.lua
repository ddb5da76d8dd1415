-- ready: what is due in some partitions, and when to look again.
-- KEYS: | spaces due ends
-- ARGV: now limit queues
-- USES: record ready
-- RETURNS: the time; then for each partition {next moment or '', index, entry, index, entry, …}.
-- GUARANTEE: changes nothing but the lower bounds in `spaces`, which it corrects. `queues` are joined by NUL, '*' for all.

local now, told = moment(), {}
for i = 1, GROUPS do
  point(i)
  local wanted = queues_of(A.queues)
  local ready = tell_ready(now, tonumber(A.limit), wanted)
  table.insert(ready, 1, next_moment(wanted))
  told[i] = ready
end
return {exact(now), unpack(told)}
