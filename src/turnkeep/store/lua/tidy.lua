-- tidy: what the passing of time does to a partition.
-- KEYS: redriven dead dead_ids dead_places counters meta
-- ARGV: now
-- USES: record dead_letters
-- RETURNS: how many entries were dropped.
-- GUARANTEE: drops only what counts for nothing any more. Letters of layout 1 get their places, some at each call.

local DEAD_LETTERS = 200

local function index_dead_letters()
  local last = redis.call('HGET', K.meta, 'letters') or ''
  if last == 'all' then return end
  local ids = redis.call('ZRANGEBYLEX', K.dead_ids, last == '' and '-' or '(' .. last, '+', 'LIMIT', 0, DEAD_LETTERS)
  for _, id in ipairs(ids) do
    local about = about_dead_letter(redis.call('HGET', K.dead, id))
    if about then index_dead_letter(about, id) end
  end
  redis.call('HSET', K.meta, 'letters', #ids < DEAD_LETTERS and 'all' or ids[#ids])
end

local now, dropped = moment(), 0
local redriven = redis.call('HGETALL', K.redriven)
for i = 1, #redriven, 2 do
  local is_whole, one = pcall(unseal, redriven[i + 1], 'redriven')
  if not is_whole or one.until_ <= now then dropped = dropped + redis.call('HDEL', K.redriven, redriven[i]) end
end
index_dead_letters()
return dropped
