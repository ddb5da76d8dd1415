"""How a command ends, as a number. Nothing is imported here: `turnkeep --help` needs it too."""

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""It failed; it was called or set up wrongly; Ctrl-C, as shells count it (128 + SIGINT)."""
