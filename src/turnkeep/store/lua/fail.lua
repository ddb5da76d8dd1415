-- fail: end an attempt: try again later, split the batch, or make its messages dead letters.
-- KEYS: @thread @partition dead dead_ids dead_places
-- ARGV: now policy thread_id token was_told_to_stop fault retry_in effects usage partition dead_id
-- USES: live record sinks log trim save message_ids inbox calls turns claims dead_letters
-- RETURNS: {'retry'}, {'split'}, {'dead'}; or {'lost'}.
-- GUARANTEE: a repeat gives the same result; frees before it appends, so that a full server lets runs end.

local p, now = policy(A.policy), moment()
local t = load()
local last = settled(t, 'fail')
if last then return {last[3]} end
if not is_owned(t) then return {'lost'} end

local run_id = t.run_id
local members = event_of_run(t, ',"error":' .. A.fault)

local function retry()
  emit(t, 'retrying', members)
  t.frozen = true
  let_go(t)
  t.due = t.stop and now or now + (tonumber(A.retry_in) or 0)
end

-- One attempt each, in order, so that a poison message does not take its neighbours along.
local function split_batch()
  emit(t, 'retrying', members)
  for i = 1, t.batch do
    local m = touch(t, i)
    m.alone, m.last_chance = true, true
  end
  t.usage = add_usage(t.usage, t.spent)
  end_run(t)
  defer_steering(t, run_id)
  t.state, t.due = 'waiting', now
end

local letters = {}

local function bury_letter(i, oldest)
  local m = open_at(t, i)
  local id = string.format('dead_%013.0f_%s%04x%s', math.floor(now * 1000), A.partition, i - 1, A.dead_id)
  local body = redis.call('HGET', K.thread, 'b:' .. m.uid) or damaged('body')
  local about = string.format('{"space":%s,"channel":%s,"thread_id":%s,"attempts":%d,"deaths":%d,"run_id":%s,"at":%s,',
    quote(t.space), quote(t.channel), quote(t.thread_id), oldest.attempts, oldest.deaths or 0, quote(run_id), exact(now))
  local text = about .. '"fault":' .. A.fault .. ',"message":' .. message_json(m) .. '}\n' .. body
  letters[#letters + 1] = {id = id, text = seal_text(text)}
end

local function die()
  local oldest = open_at(t, 1)
  t.usage = add_usage(t.usage, t.spent)
  remember_run(t, p, now, 'failed', usage_json(t.spent), ',"fault":' .. A.fault)
  for i = 1, t.batch do bury_letter(i, oldest) end
  t.out.counted.failed, t.out.counted.dead = t.batch, t.batch
  close_batch(t, p, now, 'dead')
  end_run(t)
  defer_steering(t, run_id)
  emit(t, 'dead', members)
  rest(t, p, now)
end

local oldest = touch(t, 1)
oldest.attempts = (oldest.attempts or 0) + 1
t.spent = add_usage(t.spent, usage(A.usage))
local outcome = 'dead'
if A.retry_in ~= '' or (t.stop and A.was_told_to_stop == '0') then
  outcome = 'retry'
  retry()
elseif t.batch > 1 and A.effects == '0' and not t.stop then
  outcome = 'split'
  split_batch()
else
  die()
end
leave_behind(t, {A.token, 'fail', outcome})
free()
for _, letter in ipairs(letters) do
  redis.call('ZADD', K.dead_ids, 0, letter.id)
  index_dead_letter(t, letter.id)
  redis.call('HSET', K.dead, letter.id, letter.text)
end
save(t, p, now)
return {outcome}
