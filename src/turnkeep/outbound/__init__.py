"""What leaves the house by itself: events to webhooks and brokers, parked for a channel that
refuses them.
"""
