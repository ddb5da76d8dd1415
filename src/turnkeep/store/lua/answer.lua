-- answer: end what waits by a turn that somebody else than a model has made, as a run of its own.
-- KEYS: @thread @partition operations
-- ARGV: now policy space channel want thread_id epoch once turn author run_id count top read_thread text
-- USES: live record once sinks log trim history save message_ids inbox calls turns claims
-- RETURNS: {'ok'}; or {'busy'}, {'gone'}; {'moved'} when the log does not end at `top`, or fewer than `count` wait.
-- GUARANTEE: again: nothing. `author` is JSON; what does not give ok changes nothing.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t = find_or_new(p, now)
if not t then return {'gone'} end
ripen(t, p, now)
if t.state == 'leased' or t.state == 'held' or t.batch > 0 then return {'busy'} end
if t.thread_id ~= A.read_thread or t.top ~= tonumber(A.top) or t.inbox < tonumber(A.count) then return {'moved'} end

if not t.run_id then t.run_id, t.attempt, t.first_claimed_at = A.run_id, 0, now end
t.batch, t.attempt = tonumber(A.count), t.attempt + 1
t.flushed, t.typed_at, t.gathering = nil, nil, nil
emit(t, 'started', event_of_run(t, ',"thread_id":' .. quote(t.thread_id)))

local used, by = t.spent, A.author ~= '""' and ',"author":' .. A.author or ''
local members = event_of_run(t, ',"outcome":"completed","usage":' .. usage_json(used) .. by)
t.turns, t.usage = t.turns + 1, add_usage(t.usage, used)
add_turn(t, now, A.turn)
t.out.counted.completed = t.batch
remember_run(t, p, now, 'completed', usage_json(used), '')
close_batch(t, p, now, 'answered')
end_run(t)
emit(t, 'completed', members, A.text)
rest(t, p, now)
save(t, p, now)
return remember(now, {'ok'})
