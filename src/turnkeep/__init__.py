"""turnkeep keeps the turns of a conversation."""
