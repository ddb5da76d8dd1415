-- Documents of one kind and tenant: a hash by name, and when those end that have a time to live.

-- Nothing for one that is absent or over.
local function get_document(name, now)
  local raw = redis.call('HGET', K.documents, name)
  local document = raw and unseal(raw, 'document')
  if document and document.until_ and document.until_ <= now then return nil end
  return document
end

local function tell_document(document)
  return {'document', document.version, exact(document.updated_at), document.body}
end

local function forget_old(now)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', K.expiries, '-inf', now, 'LIMIT', 0, 32)) do
    redis.call('HDEL', K.documents, name)
    redis.call('ZREM', K.expiries, name)
  end
end
