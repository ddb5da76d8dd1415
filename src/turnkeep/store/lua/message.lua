-- message: what became of a message.
-- KEYS: @thread @partition
-- ARGV: now policy want id
-- USES: live record sinks log trim save message_ids inbox calls turns claims accept search
-- RETURNS: {'message', …}; or {'absent'}, {'gone'}, {'unknown'}.
-- GUARANTEE: changes nothing.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local record, closing = known_of(t, A.id, now)
if not record then return {'unknown'} end
if closing then return tell_message(t, A.id, record, closing) end
local m, i = find_message(t, A.id)
if not m then damaged('inbox') end
return tell_message(t, A.id, record, nil, m, i)
