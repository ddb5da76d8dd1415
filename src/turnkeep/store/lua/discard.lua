-- discard: drop a dead letter.
-- KEYS: thread counters dead graves
-- ARGV: space id
-- USES: graves
-- RETURNS: 1, or 0 if it was gone.

return discard(A.space, A.id)
