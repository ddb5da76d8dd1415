-- What is ready in one partition: for each space (tenant and queue) the threads due longest.

local LONGEST = 16 -- ready spaces looked at, those due longest
local OTHERS = 240 -- and of those behind them the next ones at each look, so that no backlog hides a tenant for good
local ENTRIES = 512 -- threads told of one partition, as many of each space

local function split(text)
  local parts, from = {}, 1
  while true do
    local at = text:find('\0', from, true)
    if not at then break end
    parts[#parts + 1] = text:sub(from, at - 1)
    from = at + 1
  end
  parts[#parts + 1] = text:sub(from)
  return parts
end

-- Where the earliest moments of the spaces are: of one queue, or of all. A queue has a list of its own, so that work
-- which nobody serves is never in the way of work that somebody does.
local function list_of(queue)
  return queue and K.spaces .. ':' .. queue or K.spaces
end

-- The lists to look at for the queues asked for ('*': all).
local function lists_of(asked)
  if asked == '*' then return {K.spaces} end
  local lists = {}
  for i, queue in ipairs(split(asked)) do lists[i] = list_of(queue) end
  return lists
end

local function stamp(at)
  return string.format('%020.6f', at)
end

-- The first entries of an index in a space, up to a border.
local function first_entries(key, space, border, many)
  return redis.call('ZRANGEBYLEX', key, '[' .. space .. '\0', '(' .. space .. border, 'LIMIT', 0, many)
end

local function moment_of(space, entry)
  return entry:sub(#space + 2, #space + 21)
end

-- The earliest moment of a space becomes its bound again, in the list of whoever looks there: in the other one it stays a
-- bound, and each claim would have written both. Where nothing is left of a space it goes from both: a list at which nobody
-- looks would grow with all tenants that ever were.
local function correct(key_of_list, space)
  local due, ends = first_entries(K.due, space, '\1', 1)[1], first_entries(K.ends, space, '\1', 1)[1]
  local at = due and moment_of(space, due)
  if ends and (not at or moment_of(space, ends) < at) then at = moment_of(space, ends) end
  if at then return redis.call('ZADD', key_of_list, at, space) end
  for _, key in ipairs({list_of(), list_of(split(space)[2])}) do redis.call('ZREM', key, space) end
end

-- The spaces of a list to look at: those ready longest, then some of the others that are ready: at each `turn` the next.
local function ready_spaces(key, now, turn)
  local many = redis.call('ZCOUNT', key, '-inf', now)
  local behind, spaces = many - LONGEST, {}
  local function look(from, to)
    if from >= to then return end
    for _, space in ipairs(redis.call('ZRANGE', key, from, to - 1)) do spaces[#spaces + 1] = space end
  end
  look(0, math.min(many, LONGEST))
  if behind <= 0 then return spaces end
  local from = LONGEST + turn * OTHERS % behind
  look(from, math.min(from + OTHERS, many))
  look(LONGEST, math.min(from + OTHERS - behind, from))
  return spaces
end

-- Index, entry, index, entry … of what is ready.
local function tell_ready(now, limit, lists, turn)
  local reply, border = {}, '\0' .. stamp(now) .. '\1'
  for _, key in ipairs(lists) do
    local spaces = ready_spaces(key, now, turn)
    local many = math.min(math.max(limit, 1), math.ceil(ENTRIES / #spaces))
    for _, space in ipairs(spaces) do
      local before = #reply
      for index, entries in pairs({due = K.due, ends = K.ends}) do
        for _, entry in ipairs(first_entries(entries, space, border, many)) do
          reply[#reply + 1] = index
          reply[#reply + 1] = entry
        end
      end
      if #reply == before then correct(key, space) end
    end
  end
  return reply
end

-- When to look again: the earliest moment of these lists.
local function next_moment(lists)
  local earliest = ''
  for _, key in ipairs(lists) do
    local at = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if at and (earliest == '' or tonumber(at) < tonumber(earliest)) then earliest = at end
  end
  return earliest
end
