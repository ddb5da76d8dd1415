-- update: change what people may set.
-- KEYS: @thread @partition meta operations
-- ARGV: now policy want once assistant options window max_wait on_busy ttl | name value
-- USES: live record once sinks log trim save calls view
-- RETURNS: {'thread', name, value, …}; or {'absent'}, {'gone'}.
-- GUARANTEE: a time to live never gets shorter. Rows are metadata: JSON, or '' to remove. `assistant` is '' for no change,
-- '-' for none, else '+' and its name; `options` is 1 when they are to be replaced.

local p, now = policy(A.policy), moment()
local before = recall(now, K.thread)
if before then return before end
local t, is_gone = find(p, now)
if is_gone then return {'gone'} end
if not t then return {'absent'} end
if A.assistant ~= '' then t.assistant = A.assistant ~= '-' and A.assistant:sub(2) or nil end
if A.options == '1' then
  local own = {window = tonumber(A.window), max_wait = tonumber(A.max_wait), on_busy = A.on_busy ~= '' and A.on_busy or nil}
  t.options = next(own) and own or nil
end
if A.ttl ~= '' then t.ttl = math.max(t.ttl or 0, tonumber(A.ttl)) end
local metadata = metadata_of()
for i = 1, ROWS do
  local change = row(i)
  metadata[change.name] = change.value ~= '' and change.value or nil
end
t.out.fields = {'metadata', seal(metadata)}
t.active_at = now
save(t, p, now)
return remember(now, tell_thread(t), K.thread)
