-- append: add a turn to the transcript between turns, creating the thread if need be.
-- KEYS: @thread @partition operations
-- ARGV: now policy space channel want thread_id epoch once turn author | text
-- USES: live record once sinks log trim history save
-- RETURNS: {'ok'}; or {'busy'}, {'gone'}.
-- GUARANTEE: again: nothing. `author` is JSON; texts are announced as `said`.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t = find_or_new(p, now)
if not t then return {'gone'} end
if is_busy(t) then return {'busy'} end
t.turns, t.active_at = t.turns + 1, now
add_turn(t, now, A.turn)
for i = 1, ROWS do emit(t, 'said', '{"author":' .. A.author .. '}', row(i).text) end
save(t, p, now)
return remember(now, {'ok'})
