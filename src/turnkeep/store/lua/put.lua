-- put: write a document.
-- KEYS: documents expiries operations
-- ARGV: now once name body version ttl
-- USES: record once documents
-- RETURNS: {'document', version, updated_at, body}; or {'conflict', version}.
-- GUARANTEE: with a version only over that one; a body that is there already is no change.

local now = moment()
forget_old(now)
local before = recall(now)
if before then return before end
local old = get_document(A.name, now)
local version, expected = old and old.version or 0, tonumber(A.version)
if not (old and old.body == A.body and (not expected or expected == version or expected == version - 1)) then
  if expected and expected ~= version then return {'conflict', version} end
  old = {version = version + 1, body = A.body, updated_at = now}
end
local ttl = tonumber(A.ttl)
old.until_ = ttl and now + ttl or nil
redis.call('HSET', K.documents, A.name, seal(old))
if ttl then redis.call('ZADD', K.expiries, old.until_, A.name) else redis.call('ZREM', K.expiries, A.name) end
return remember(now, tell_document(old))
