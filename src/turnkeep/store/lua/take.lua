-- take: read and delete a document: of two takers one gets it.
-- KEYS: documents expiries operations
-- ARGV: now once name
-- USES: record once documents
-- RETURNS: {'document', …}; or {'absent'}.

local now = moment()
local before = recall(now)
if before then return before end
local document = get_document(A.name, now)
redis.call('ZREM', K.expiries, A.name)
redis.call('HDEL', K.documents, A.name)
return remember(now, document and tell_document(document) or {'absent'})
