-- regenerate: take the last turn that holds user items back, with all after it, and accept its messages again.
-- KEYS: @thread @partition operations
-- ARGV: now policy want once turn | id digest size on_busy window max_wait not_before flush minted body text
-- USES: live record once sinks log trim history save message_ids inbox accept
-- RETURNS: {'receipts', id, {'receipt', …}, …}; or {'absent'}, {'gone'}, {'busy'}, {'none'}, {'full', open}; {'moved'} when the
-- last such turn is not `turn`, so that the caller has to read it again.
-- GUARANTEE: what does not give receipts changes nothing.

local p, now = policy(A.policy), moment()
local before = recall(now)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
ripen(t, p, now)
if is_busy(t) or t.inbox > 0 then return {'busy'} end

local taken, turn = 0, nil
repeat
  local raw = redis.call('LINDEX', K.history, -1 - taken)
  if not raw then return {'none'} end
  turn = read_turn(raw)
  taken = taken + 1
  t.items, t.bytes = t.items - turn.items, t.bytes - turn.bytes
until turn.user
if turn.turn ~= tonumber(A.turn) then return {'moved'} end
t.out.taken_back, t.out.is_recounted = taken, true
t.edits, t.transcript_at = t.edits + 1, now

local reply = {'receipts'}
for i = 1, ROWS do
  turn_to(i)
  local outcome = accept_one(t, p, now, p.max_inbox)
  if outcome[1] ~= 'receipt' then return outcome end
  reply[2 * i], reply[2 * i + 1] = A.id, outcome
end
save(t, p, now)
return remember(now, reply)
