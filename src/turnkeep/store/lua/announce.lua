-- announce: say that a record has changed that processes remember.
-- KEYS: revisions
-- RETURNS: how many heard it.
-- GUARANTEE: changes nothing; a hint.

return redis.pcall(PUBLISH, K.revisions, '')
