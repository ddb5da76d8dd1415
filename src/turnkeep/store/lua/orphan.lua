-- orphan: give back a lease that its owner does not know, because the reply to its claim was lost. Nobody died.
-- KEYS: @thread @partition
-- ARGV: now policy token
-- USES: live record sinks log trim save message_ids inbox calls turns
-- RETURNS: 1 if it was given back.
-- GUARANTEE: any other claim stays. Works on a full server.

local p, now = policy(A.policy), moment()
local t = load()
if not t or t.state ~= 'leased' or t.token ~= A.token then return 0 end
let_go(t)
t.due = now
free()
save(t, p, now)
return 1
