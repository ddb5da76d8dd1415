-- spend: what an account holds.
-- KEYS: accounts
-- ARGV: now account
-- USES: record ledger
-- RETURNS: settled, reserved.
-- GUARANTEE: changes nothing.

local found = account(A.account, moment())
return {exact(found.settled), exact(found.reserved)}
