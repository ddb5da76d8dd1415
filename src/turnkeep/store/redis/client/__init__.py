"""A client of Redis: one pipe for each server, topology, subscriptions, scripts; it knows nothing of threads.

An order is given at most once: where its reply is lost, the caller hears `OutcomeUnknown` and decides.
"""
