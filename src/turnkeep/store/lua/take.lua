-- take: read and delete a document: of two takers one gets it.
-- KEYS: documents expiries taken
-- ARGV: now name taker
-- USES: record documents
-- RETURNS: {'document', …}; or nothing.
-- GUARANTEE: a repeat by the same taker within a minute gives the same document.

local now = moment()
local before = redis.call('GET', K.taken)
if before then
  local left = unseal(before, 'taken')
  if left.taker == A.taker then return tell_document(left.document) end
end
local document = get_document(A.name, now)
redis.call('ZREM', K.expiries, A.name)
redis.call('HDEL', K.documents, A.name)
if not document then return false end
redis.call('SET', K.taken, seal({taker = A.taker, document = document}), 'PX', 60000)
return tell_document(document)
