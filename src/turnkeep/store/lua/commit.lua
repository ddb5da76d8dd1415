-- commit: end runs, each by itself: trim the batch, append the turn, add the usage, tell, and look at what is left.
-- KEYS: | @thread | @partition
-- ARGV: now | policy thread_id token outcome text turn usage model published
-- USES: live record groups sinks log trim history save message_ids inbox calls turns claims
-- RETURNS: for each {'left', messages, due or '', version of the transcript}; {'gap', published}; {'lost'}; or {'alone'}:
-- nothing was done, and a call for it alone tells what is wrong.
-- GUARANTEE: a repeat gives the same result; frees before it appends, so that a full server lets runs end.

local now = moment()

local function commit_run(i)
  turn_to(i)
  point(i)
  local p, t = policy(A.policy), load()
  local last = settled(t, 'commit')
  if last then return {'left', last[3], exact(last[4] or nil), last[5]} end
  if not is_owned(t) then return {'lost'} end
  if tonumber(A.published) > t.published then return {'gap', t.published} end

  local run_id, used = t.run_id, add_usage(usage(A.usage), t.spent)
  local used_json = usage_json(used)
  local members = event_of_run(t, ',"outcome":"' .. A.outcome .. '","usage":' .. used_json)
  t.turns, t.usage = t.turns + 1, add_usage(t.usage, used)
  add_turn(t, now, A.turn)
  t.out.counted.completed = t.batch
  remember_run(t, p, now, A.outcome, used_json, A.model)
  close_batch(t, p, now, A.outcome == 'cancelled' and 'cancelled' or 'answered')
  end_run(t)
  defer_steering(t, run_id)
  emit(t, 'completed', members, A.text)
  rest(t, p, now)
  leave_behind(t, {A.token, 'commit', t.inbox, wake(t) or false, version_of(t)})
  free()
  save(t, p, now)
  return {'left', t.inbox, exact(wake(t)), version_of(t)}
end

local reply = {}
count_together()
for i = 1, ROWS do
  reply[i] = ROWS == 1 and commit_run(i) or do_beside_others(i == 1, commit_run, i)
end
write_later_counts()
return reply
