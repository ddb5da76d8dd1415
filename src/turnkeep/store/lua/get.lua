-- get: read documents: one by name, or all.
-- KEYS: documents
-- ARGV: now name all
-- USES: record documents
-- RETURNS: {name, {'document', …}, …}.
-- GUARANTEE: changes nothing.

local now, reply = moment(), {}
for _, name in ipairs(A.all == '1' and redis.call('HKEYS', K.documents) or {A.name}) do
  local document = get_document(name, now)
  if document then
    reply[#reply + 1] = name
    reply[#reply + 1] = tell_document(document)
  end
end
return reply
