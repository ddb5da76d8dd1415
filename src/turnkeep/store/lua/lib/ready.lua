-- What is ready in one partition: for each space (tenant and queue) the threads due longest.

local SPACES = 64 -- ready spaces looked at, those due longest first
local ENTRIES = 512 -- threads told of one partition

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

-- The queues asked for as a set; nothing for all.
local function queues_of(text)
  if text == '*' then return nil end
  local wanted = {}
  for _, queue in ipairs(split(text)) do wanted[queue] = true end
  return wanted
end

local function is_wanted(space, wanted)
  return not wanted or wanted[split(space)[2]]
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

-- The earliest moment of a space that holds nothing ready becomes its bound again.
local function correct(space)
  local due, ends = first_entries(K.due, space, '\1', 1)[1], first_entries(K.ends, space, '\1', 1)[1]
  local at = due and moment_of(space, due)
  if ends and (not at or moment_of(space, ends) < at) then at = moment_of(space, ends) end
  if at then redis.call('ZADD', K.spaces, at, space) else redis.call('ZREM', K.spaces, space) end
end

-- Index, entry, index, entry … of what is ready.
local function tell_ready(now, limit, wanted)
  local told, border = {}, '\0' .. stamp(now) .. '\1'
  for _, space in ipairs(redis.call('ZRANGEBYSCORE', K.spaces, '-inf', now, 'LIMIT', 0, SPACES)) do
    if is_wanted(space, wanted) then
      local before = #told
      for index, key in pairs({due = K.due, ends = K.ends}) do
        for _, entry in ipairs(first_entries(key, space, border, math.max(limit, 1))) do
          told[#told + 1] = index
          told[#told + 1] = entry
        end
      end
      if #told == before then correct(space) end
      if #told > 2 * ENTRIES then break end
    end
  end
  return told
end

-- When to look again: the earliest moment of the queues asked for.
local function next_moment(wanted)
  local from = 0
  while true do
    local spaces = redis.call('ZRANGE', K.spaces, from, from + 31, 'WITHSCORES')
    for i = 1, #spaces, 2 do
      if is_wanted(spaces[i], wanted) then return spaces[i + 1] end
    end
    if #spaces < 64 then return '' end
    from = from + 32
  end
end
