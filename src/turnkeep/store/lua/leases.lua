-- leases: what an owner holds in some partitions.
-- KEYS: | leases
-- ARGV: owner
-- RETURNS: for each partition its entries.
-- GUARANTEE: changes nothing.

local reply = {}
for i = 1, GROUPS do
  point(i)
  reply[i] = redis.call('ZRANGEBYLEX', K.leases, '[' .. A.owner .. '\0', '(' .. A.owner .. '\1')
end
return reply
