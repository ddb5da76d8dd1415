-- accept: take messages of threads in; each is decided by itself, those of one thread in one act.
-- KEYS: | @thread | @partition
-- ARGV: now | is_first policy space channel want thread_id epoch create max_inbox id digest size on_busy window max_wait not_before flush minted body text
-- USES: live record groups sinks log trim save message_ids inbox accept
-- RETURNS: for each thread 'ok', then for each message {'receipt', …}, {'conflict'}, {'full', open}, {'busy'} or {'absent'};
-- or {'gone'}; or {'alone'}: nothing was done, and a call for this thread alone tells what is wrong.
-- GUARANTEE: an id that is known, of an earlier thread too, stores nothing and gives its first receipt; without a receipt nothing is stored at all.
-- What is told of a thread stands in the row of its first message, where `is_first` is '1'.

local now = moment()

local function accept_rows(from, to)
  turn_to(from)
  local p = policy(A.policy)
  local t, is_gone = find(p, now)
  if is_gone then return {'gone'} end
  local is_absent = not t and A.create == '0'
  local max_inbox = A.max_inbox ~= '' and tonumber(A.max_inbox) or p.max_inbox
  t = t or new_thread(now)
  local outcomes = {'ok'}
  for i = from, to do
    turn_to(i)
    local record, closing = accepted_before(t, A.id, now)
    if record then
      outcomes[#outcomes + 1] = repeated_receipt(t, record, closing, A.digest)
    else
      outcomes[#outcomes + 1] = is_absent and {'absent'} or accept_one(t, p, now, max_inbox)
    end
  end
  if t.out.is_accepted then save(t, p, now) end
  return outcomes
end

local function last_of_thread(from)
  for i = from + 1, ROWS do
    turn_to(i)
    if A.is_first == '1' then return i - 1 end
  end
  return ROWS
end

local reply, from = {}, 1
count_together()
while from <= ROWS do
  local to = last_of_thread(from)
  point(#reply + 1)
  local is_alone = from == 1 and to == ROWS
  reply[#reply + 1] = is_alone and accept_rows(from, to) or do_beside_others(from == 1, accept_rows, from, to)
  from = to + 1
end
write_later_counts()
return reply
