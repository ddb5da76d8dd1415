"""Who asks, and what may that one do: keys, tokens, tickets, scopes, rates, and the trail of what
was refused.
"""
