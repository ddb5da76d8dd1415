-- Several acts in one script, each on a thread of its own.

-- Whether an error tells of the server, and nothing of the thread.
local function is_refusal(wrong)
  local text = type(wrong) == 'table' and wrong.err or tostring(wrong)
  return text:match('MISCONF') or text:match('READONLY') or text:match('NOREPLICAS') or text:match('OOM')
end

-- What goes wrong with one keeps its neighbours from nothing: a call for it alone tells what it is. Only a server that
-- takes no writes at all refuses everything.
local function do_beside_others(is_first, act, ...)
  local is_done, answer = pcall(act, ...)
  if is_done then return answer end
  if is_refusal(answer) and is_first then error(answer) end
  return {'alone'}
end
