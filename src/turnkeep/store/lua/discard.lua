-- discard: drop a dead letter.
-- KEYS: counters dead dead_ids dead_places operations
-- ARGV: now once space id
-- USES: record once dead_letters
-- RETURNS: 1, or 0 if it was gone.

local now = moment()
return recall(now) or remember(now, discard(A.space, A.id))
