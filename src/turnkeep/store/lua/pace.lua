-- pace: take one request and so many tokens from the shared buckets of a key.
-- KEYS: pace operations
-- ARGV: now once requests tokens wanted
-- USES: record once estimates
-- RETURNS: 0 if granted, else the seconds to wait.
-- GUARANTEE: what is not granted takes nothing. Limits are per minute, 0: unlimited; more tokens than a full bucket holds
-- need a full bucket.

local MINUTE = 60
local now, capacity, demand = moment(), {}, {}
local before = recall(now)
if before then return before end
local levels, buckets = read_pace(), {}
capacity.requests, capacity.tokens = tonumber(A.requests), tonumber(A.tokens)
demand.requests, demand.tokens = 1, math.min(tonumber(A.wanted), capacity.tokens)

local wait = math.max(0, (levels.slow_until or 0) - now)
for _, name in ipairs({'requests', 'tokens'}) do
  local full = capacity[name]
  if full > 0 then
    local level = levels[name] or full
    level = math.min(full, level + (now - (levels[name .. '_at'] or now)) * full / MINUTE)
    buckets[name] = level
    wait = math.max(wait, (demand[name] - level) * MINUTE / full)
  end
end
redis.call('HDEL', K.pace, '') -- frees, so that a full server lets runs go on
for name, level in pairs(buckets) do
  local left = wait == 0 and level - demand[name] or level
  redis.call('HSET', K.pace, name, string.format('%.17g', left), name .. '_at', exact(now))
end
return remember(now, exact(wait))
