"""From a claim to one settled outcome: worker, lease, run, the model's answer,
its tool calls, journal.
"""
