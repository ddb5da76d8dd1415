"""The Redis client by itself: no thread, no store, and where a server is needed a socket that answers as told."""
