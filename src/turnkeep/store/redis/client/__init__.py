"""A client of Redis: a pipe to each server, topology, subscriptions, scripts; no word of threads.

Our own, on top of redis-py's handshake and hiredis' parser: each token is a command, and a client
with a pool makes a checkout and a write for each. What it promises:

* **At most once on a connection**: `Pipe` never sends a command twice. Where its reply is lost,
  whoever waits hears `OutcomeUnknown`; where it was never written, `StoreUnavailable`.
* **One write per tick**: all commands of one turn of the event loop go out together, in the order
  they were given, and their replies come back in that order.
* **What is repeated**: `Link.run`, `run_apart` and `call` give an order up to `ATTEMPTS` times,
  only orders that name what they do, so that the server keeps the first reply and gives it again;
  and what the server refused without doing it (a moved slot, an unknown script, a failover).
* **What is not**: `tell` and `ask` (nobody depends on them), refusals that stay, and anything once
  its time is over.
* **No silence**: a server that says nothing for `timeout` seconds loses the connection; after a
  lost subscription each listener is told that it may have missed something.

In layers: `scripts` (texts), `cures` (refusals), `pipe` (one connection), `dialing` (how it is
opened), `topology` (which server), `link` (orders), `subscriptions` (what servers tell).
"""
