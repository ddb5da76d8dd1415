-- history: the newest whole turns (before a turn, if given) that fit both limits.
-- KEYS: @thread @partition
-- ARGV: now policy want tokens items before_turn token
-- USES: live record sinks log trim history save calls view
-- RETURNS: {'history', complete, summary or '', newest turn, …}; or {'absent'}, {'gone'}, {'lost'}.
-- GUARANTEE: changes nothing but the expiry, which it slides at most once per 1 % of it.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if A.token ~= '' and not (t and t.state == 'leased' and t.token == A.token) then return {'lost'} end
if not t then return {'absent'} end
slide(t, p, now)
local max_tokens, max_items, before = tonumber(A.tokens), tonumber(A.items), tonumber(A.before_turn)
local reply, tokens, items, place = {'history', 1, redis.call('HGET', K.thread, 'summary') or ''}, 0, 0, -1
while true do
  local raw = redis.call('LINDEX', K.history, place)
  if not raw then break end
  local turn = read_turn(raw)
  if not before or turn.turn < before then
    tokens, items = tokens + turn.tokens, items + turn.items
    if (max_items and items > max_items) or (max_tokens and tokens > max_tokens) then
      reply[2] = 0
      break
    end
    reply[#reply + 1] = raw
  end
  place = place - 1
end
return reply
