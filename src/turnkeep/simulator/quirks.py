"""How servers that call themselves compatible differ. Chosen by
path (``/quirk/NAME/v1``) or by option.
"""

from __future__ import annotations

from typing import Literal

from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Quirk:
    """What one kind of server does differently. The defaults are the platform's own ways."""

    name: str
    filter_chunks: bool = False
    """First a chunk without choices and id, later a choice without a delta."""
    tool_index: Literal["real", "absent", "zero"] = "real"
    whole_calls: bool = False
    """A call comes in one piece, not in fragments of its arguments."""
    arguments_as_object: bool = False
    call_ids: bool = True
    """Without, calls come with an empty id."""
    calls_end_with_stop: bool = False
    usage_at_finish: bool = False
    """Usage comes, unasked, with the finish reason."""
    changing_id: bool = False
    usage: bool = True
    sends_done: bool = True
    thoughts: bool = False
    """`reasoning_content` beside the content."""
    crlf: bool = False
    rejects: frozenset[str] = frozenset()
    """Parameters that are answered with 400."""
    error_in_200: bool = False
    no_finish: bool = False
    """Ends without finish_reason and without [DONE], as after a lost upstream."""
    responses: bool = True
    stateless: Literal["no", "ignores", "refuses"] = "no"
    done_after_responses: bool = False


_ALL = (
    Quirk("openai"),
    # semantic-kernel#3650, autogen#6465
    Quirk("azure", filter_chunks=True),
    # ollama#7881, and no Responses: a client has to notice by the 404.
    Quirk("ollama", tool_index="absent", whole_calls=True, responses=False, stateless="ignores"),
    # litellm#37792, litellm#35663
    Quirk(
        "litellm",
        tool_index="zero",
        whole_calls=True,
        arguments_as_object=True,
        calls_end_with_stop=True,
        changing_id=True,
    ),
    # python-genai#2868: the finish reason says stop although there are calls.
    Quirk(
        "gemini",
        whole_calls=True,
        call_ids=False,
        calls_end_with_stop=True,
        usage_at_finish=True,
        responses=False,
    ),
    Quirk("vllm", thoughts=True, done_after_responses=True),
    Quirk("deepseek", thoughts=True, responses=False),
    Quirk("no-usage", usage=False),
    Quirk("no-done", sends_done=False),
    Quirk("crlf", crlf=True),
    # Many of them know less than they are sent and say so with a 400.
    Quirk("strict", rejects=frozenset(("stream_options", "parallel_tool_calls", "store", "metadata")), usage=False),
    # The proxy has answered before its upstream failed (rocketmq-dashboard#2178).
    Quirk("gateway", error_in_200=True),
    # Not to be taken for an answer that reached its length (hermes-agent#42314).
    Quirk("dropped", no_finish=True),
    # It keeps no state, and refuses whoever asks for it.
    Quirk("openrouter", stateless="refuses"),
    # Takes `previous_response_id` and forgets it without a word (mlx-vlm#1046).
    Quirk("mlx", stateless="ignores", done_after_responses=True),
)
QUIRKS = {quirk.name: quirk for quirk in _ALL}
