-- offer_steering: the steering messages, with all that wait before them.
-- KEYS: @thread @partition
-- ARGV: now policy thread_id token
-- USES: live record sinks log trim save message_ids inbox calls turns claims
-- RETURNS: {'offered', {JSON, body, …}}; or {'lost'}.
-- GUARANTEE: the same until a journal record takes them; once offered they cannot be edited or withdrawn.

local p, now = policy(A.policy), moment()
local t = load()
if not is_owned(t) then return {'lost'} end
local last = 0
for i = t.batch + 1, t.steering > 0 and t.inbox or 0 do
  if open_at(t, i).steer then last = i end
end
if last == 0 then return {'offered', {}} end
for i = t.batch + 1, last do
  local m = open_at(t, i)
  if m.steer ~= 'offered' then
    if not m.steer then t.steering = t.steering + 1 end
    touch(t, i).steer = 'offered'
    t.out.is_changed = true
  end
end
local reply = tell_messages(t, t.batch + 1, last)
if t.out.is_changed then save(t, p, now) end
return {'offered', reply}
