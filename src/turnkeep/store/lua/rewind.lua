-- rewind: take the last turn that holds user items back, with all after it.
-- KEYS: @thread @partition
-- ARGV: now policy want key once
-- USES: live record sinks log trim history save
-- RETURNS: {'turn', the turn taken back}; or {'absent'}, {'gone'}, {'busy'}, {'none'}.
-- GUARANTEE: again with the key of the last such change, or with `once` of the last unkeyed one: the same turn, nothing
-- is removed.

local p, now = policy(A.policy), moment()
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
local rewound = A.key ~= '' and 'rewound' or 'rewound_once'
if is_repeated(t, 'rewind') then return {'turn', redis.call('HGET', K.thread, rewound) or damaged('rewound')} end
if is_busy(t) then return {'busy'} end

local taken, turn = 0, nil
repeat
  local raw = redis.call('LINDEX', K.history, -1 - taken)
  if not raw then return {'none'} end
  turn = read_turn(raw)
  taken = taken + 1
  t.items, t.bytes = t.items - turn.items, t.bytes - turn.bytes
until turn.user
t.out.taken_back, t.out.is_recounted, t.active_at = taken, true, now
remember_change(t, 'rewind')
t.out.fields = {rewound, turn.raw}
save(t, p, now)
return {'turn', turn.raw}
