-- spend: what an account holds.
-- KEYS: accounts
-- ARGV: now account
-- USES: record ledger
-- RETURNS: settled, reserved.
-- GUARANTEE: changes nothing.

local sums = account(A.account, moment())
return {exact(sums.settled), exact(sums.reserved)}
