-- discard: drop a dead letter.
-- KEYS: thread counters dead graves operations
-- ARGV: now once space id
-- USES: record once graves
-- RETURNS: 1, or 0 if it was gone.

local now = moment()
return recall(now) or remember(now, discard(A.space, A.id))
