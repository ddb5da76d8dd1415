"""How long a test waits for what has to come: it says nothing about speed, so it is long enough for any machine."""

PATIENCE = 60.0
"""Seconds. The limit of a whole test (`timeout` of pytest) is beyond it, so that a wait ends with its own line."""
