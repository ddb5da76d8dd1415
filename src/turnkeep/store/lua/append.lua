-- append: add a turn to the transcript between turns, creating the thread if need be.
-- KEYS: @thread @partition
-- ARGV: now policy space channel want thread_id epoch key once turn author | text
-- USES: live record log trim history save
-- RETURNS: {'ok'}; or {'busy'}, {'gone'}.
-- GUARANTEE: again with the key of the last such change, or with `once` of the last unkeyed one: nothing. `author` is
-- JSON; texts are announced as `said`.

local p, now = policy(A.policy), moment()
local t = find_or_new(p, now)
if not t then return {'gone'} end
if is_repeated(t, 'append') then return {'ok'} end
if is_busy(t) then return {'busy'} end
t.turns, t.active_at = t.turns + 1, now
add_turn(t, now, A.turn)
for i = 1, ROWS do emit(t, 'said', '{"author":' .. A.author .. '}', row(i).text) end
remember_change(t, 'append')
save(t, p, now)
return {'ok'}
