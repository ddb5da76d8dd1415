"""WebSocket: the life of a session, and what may be asked on it."""
