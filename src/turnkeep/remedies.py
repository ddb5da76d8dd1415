"""What an operator does about a cause, by its code: one sentence, shown beside why something waits or died."""

from __future__ import annotations

from collections.abc import Mapping

REMEDIES: Mapping[str, str] = {
    "credentials_refused": "The model's server refuses the key: check OPENAI_API_KEY or ANTHROPIC_API_KEY and restart.",
    "quota_exhausted": "The account of this key has no credit left: add some at the provider.",
    "model_gone": "The server does not know this model: set OPENAI_MODEL to one that it has.",
    "endpoint_blocked": "The model's server answers nobody until somebody acts: `turnkeep doctor` asks it.",
    "model_unreachable": "No connection to the model's server: check OPENAI_BASE_URL, the network and the server.",
    "model_unavailable": "The model's server fails: look at its status page or log; it is asked again by itself.",
    "model_timed_out": "The model's server went silent: raise TURNKEEP_IDLE_TIMEOUT if it needs longer.",
    "model_rate_limited": "The provider asks to slow down: it goes on by itself.",
    "model_refused": "The provider refuses this request: the details say why.",
    "answer_malformed": "The model's server sends no valid stream: check OPENAI_BASE_URL and TURNKEEP_MODEL_API.",
    "answer_unreadable": "The server's answer has another form than expected: check TURNKEEP_MODEL_API.",
    "context_too_long": "The conversation does not fit the model: begin a new one, or choose a larger model.",
    "pace_reached": "All workers together ask as much as they may: it goes on by itself within a minute.",
    "budget_reserved": "Other runs have reserved the rest of a budget: it goes on when they end.",
    "budget_spent": "The budget of this period is spent: raise TURNKEEP_THREAD_BUDGET or its neighbours, or wait.",
    "price_unknown": "A budget needs the price of the model: add it to TURNKEEP_PRICE_FILE.",
    "silent": "Nothing was heard of the worker: if it is gone, another one takes over when its lease ends.",
    "run_timed_out": "The run reached TURNKEEP_RUN_DEADLINE.",
    "run_broke": "An error that nobody expected: the log of the worker has it.",
    "tool_failed": "The tool raised an error: the log of the worker has it.",
    "too_many_steps": "The model kept calling tools: raise TURNKEEP_MAX_STEPS if it is meant to.",
    "too_many_deaths": "Workers died on this message again and again: look at their logs, then send it again.",
    "store_unavailable": "The store cannot be reached: `turnkeep doctor` looks at it.",
    "store_full": "The store is full: free memory or disk.",
}


def remedy_of(code: str) -> str:
    """What to do about a cause; empty where there is nothing to say."""
    return REMEDIES.get(code, "")
