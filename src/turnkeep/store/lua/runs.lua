-- runs: the run in progress or in waiting, then the last finished ones, newest first.
-- KEYS: @thread @partition
-- ARGV: now policy want
-- USES: live record sinks log trim save message_ids inbox calls turns
-- RETURNS: {'runs', JSON, …}; or {'absent'}, {'gone'}.
-- GUARANTEE: changes nothing.

local STATUS = {leased = 'in_progress', held = 'requires_action'}

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local reply = {'runs'}
if t.run_id then
  reply[2] = string.format('{"run_id":%s,"status":"%s","message_ids":%s,"attempt":%d,"started_at":%s,"usage":%s,"calls":%s}',
    quote(t.run_id), STATUS[t.state] or 'queued', ids_json(ids_of(t, 1, t.batch)), t.attempt, exact(t.first_claimed_at),
    usage_json(t.spent), calls_json(t))
end
for n = t.runs, math.max(1, t.runs - p.runs_kept + 1), -1 do
  reply[#reply + 1] = unseal_text(redis.call('HGET', K.thread, 'r:' .. n), 'run')
end
return reply
