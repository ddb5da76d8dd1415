-- edit: replace the content of a waiting or delayed message; its place, window and digest stay.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once id content size text
-- USES: live record once sinks log trim save message_ids inbox calls turns claims accept search
-- RETURNS: {'message', …}; or {'absent'}, {'gone'}, {'unknown'}, {'late', status}, {'frozen'}.
-- GUARANTEE: the same content again changes nothing.

local p, now = policy(A.policy), moment()
local before = recall(now, K.thread)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local m, i = unfrozen(t, p, now, A.id)
if not m then return i end

local body = redis.call('HGET', K.thread, 'b:' .. m.uid) or damaged('body')
local rest_of_body, content = body:match('^([^\n]*\n)(.*)$')
if not rest_of_body then damaged('body') end
local fields = t.out.fields
if content ~= A.content then
  fields[#fields + 1] = 'b:' .. m.uid
  fields[#fields + 1] = rest_of_body .. A.content
  m.size = tonumber(A.size)
  if i then
    m.changed = true
  else
    fields[#fields + 1] = 'd:' .. string.format('%012d', m.uid)
    fields[#fields + 1] = seal(m)
  end
  emit(t, 'edited', '{"message_ids":' .. ids_json({m.id}) .. '}', A.text)
end
if #t.out.events > 0 or t.out.is_changed then save(t, p, now) end
local record = known_of(t, A.id, now)
return remember(now, tell_message(t, A.id, record, nil, m, i), K.thread)
