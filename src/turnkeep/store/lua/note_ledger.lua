-- note_ledger: note a tenant that is about to reserve, among those whose ledgers are to be looked at.
-- KEYS: ledgers
-- ARGV: now tenant
-- USES: record
-- RETURNS: how many are noted.
-- GUARANTEE: one that reserved nothing for longer than any account is kept is dropped. Works on a full server.

local KEPT = 40 * 86400

local now = moment()
redis.call('ZREMRANGEBYSCORE', K.ledgers, '-inf', now - KEPT)
redis.call('ZADD', K.ledgers, now, A.tenant)
return redis.call('ZCARD', K.ledgers)
