-- renew: prolong claims of one owner in one partition.
-- KEYS: @partition operations | @thread
-- ARGV: now once owner lease | token thread_id policy
-- USES: live record groups once sinks log trim save message_ids inbox
-- RETURNS: for each claim {held, until, stop, steer}, then a list of leases of this owner that were not named.
-- GUARANTEE: one that comes late, after its repeat, gives no later claim back; a claim that is not valid is told so and changed in nothing; a damaged thread does not touch the others.
-- Works on a full server: else every run would be lost with its lease. A server that takes no writes refuses it all.

local now, named = moment(), {}
local before = recall(now)
if before then return before end

local function wants_to_steer(t)
  for i = t.batch + 1, t.steering > 0 and t.inbox or 0 do
    if open_at(t, i).steer == 'asked' then return 1 end
  end
  return 0
end

local function renew_one(claim)
  local p, t = policy(claim.policy), read_head()
  if not t or t.thread_id ~= claim.thread_id or t.state ~= 'leased' or t.token ~= claim.token then return {0} end
  -- Of a claim that only goes on nothing but the record is written: no other key has to be met.
  t = t.delayed > 0 and load() or with_out(t)
  ripen(t, p, now)
  t.due = now + A.lease
  free()
  save(t, p, now)
  return {1, exact(t.due), t.stop or '', wants_to_steer(t)}
end

local reply = {}
for i = 1, ROWS do
  local claim = row(i)
  named[claim.token] = true
  point(i)
  local is_done, directive = pcall(renew_one, claim)
  if not is_done and is_refusal(directive) then error(directive) end
  reply[i] = is_done and directive or {-1}
end

local unnamed = {}
for _, entry in ipairs(redis.call('ZRANGEBYLEX', K.leases, '[' .. A.owner .. '\0', '(' .. A.owner .. '\1')) do
  local token = entry:match('^[^%z]*%z([^%z]*)%z')
  if not named[token] then unnamed[#unnamed + 1] = entry end
end
reply[#reply + 1] = unnamed
if ROWS == 0 and #unnamed == 0 then return reply end -- it did nothing
return remember(now, reply)
