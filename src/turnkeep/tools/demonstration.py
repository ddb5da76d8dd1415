"""A tool for trying out how a call is approved: the letter goes nowhere."""

from __future__ import annotations

from turnkeep.tools.tool import tool


@tool(needs_approval=True, show="all")
def send_letter(to: str, text: str = "") -> str:
    """Send a letter. This is a demonstration: it goes nowhere."""
    return f"A letter to {to} would have been sent ({len(text)} characters)."
