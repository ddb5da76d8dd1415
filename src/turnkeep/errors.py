"""Everything that can go wrong, as one tree; a class exists only where a caller would act differently.

TurnkeepError
├── ConfigurationError            a setting, file or extra is wrong: fix it and start again
├── NoAnswer                      who asked has waited long enough; what was sent goes on (a `TimeoutError`)
├── Rejection                     refused at the door, nothing was stored
│   ├── InvalidMessage            the message or request cannot be understood
│   │   └── NotOffered            understood, and not offered here: the sentence names the way out
│   ├── MessageTooLarge, NotAuthenticated, NotAllowed
│   ├── NotFound                  no such message, assistant, dead letter, call …
│   │   └── ThreadNotFound
│   ├── Conflict                  the thing exists and says otherwise
│   │   └── MessageConflict, MessageFrozen, WrongState
│   └── ThreadBusy, InboxFull, TooManyRequests   not now (retryable)
├── ModelError                    the provider failed
│   ├── ModelUnavailable          5xx, or the connection was lost (retryable)
│   │   └── ModelUnreachable      nothing was asked: messages wait without attempts
│   ├── ModelTimedOut, ResponseLost      it said nothing, or forgot what it said (retryable)
│   ├── AnswerMalformed           no terminal event, garbage, HTML … (retryable)
│   │   └── AnswerUnreadable      whole, but in a form that is not understood: another attempt says the same
│   ├── ModelRateLimited          429: wait `retry_after`, the claim is released (retryable)
│   ├── ModelRefused              the request itself is refused: another attempt says the same
│   ├── ContextTooLong, UnansweredCall   mended once, then given up
│   └── EndpointBlocked           opens the circuit of endpoint and key; messages wait without attempts
│       └── QuotaExhausted, CredentialsRefused, ModelGone
├── ToolError                     told to the model as output, never ends a run by itself
│   └── UnknownTool, BadArguments, ToolTimedOut, ToolFailed, ToolDenied
├── RunError                      ends the run
│   ├── TooManySteps, RunTimedOut, BudgetSpent, TooManyDeaths
│   ├── LeaseLost                 another worker owns the thread: stop, write nothing
│   └── RunBroke                  a mistake of ours or of a tool's author (retryable)
├── Waiting                       not now: the run is given back and uses no attempt (retryable)
│   └── PaceReached, BudgetReserved, PriceUnknown
└── StoreError
    ├── StoreUnavailable          not reachable now (retryable)
    │   └── StoreUnfit            could lose what it accepts, so it accepts nothing now (retryable)
    ├── StoreFull                 out of memory or disk (retryable)
    ├── OutcomeUnknown            the reply was lost: repeat it under the same id (retryable)
    └── StoreMisconfigured, StoreUnsealable, ThreadQuarantined

Three more of the command line and two of engines stand where they are raised: nobody else meets them.
"""

from __future__ import annotations

from typing import ClassVar


class TurnkeepError(Exception):
    """Root. `code` is stable and public; `public` is a sentence for people, without secrets or user text."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    public: ClassVar[str] = "Something went wrong. Please try again."

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        # The docstring is the sentence of last resort, so that no error is ever empty in a log.
        super().__init__(message or type(self).__doc__ or self.code)
        self.retry_after = retry_after


class ConfigurationError(TurnkeepError):
    """a setting, file or extra is missing or wrong"""

    code = "configuration_error"
    public = "The service is not configured correctly."


class NoAnswer(TurnkeepError, TimeoutError):
    """no answer came in the time that was waited for; the message is safe and will be answered"""

    code = "no_answer"
    retryable = True
    public = "The answer is taking longer than usual. It will come."


class Rejection(TurnkeepError):
    """refused at the door; nothing was stored"""

    code = "rejected"
    public = "The request was refused."


class InvalidMessage(Rejection):
    """the message or request cannot be understood"""

    code = "invalid_message"
    public = "There was an issue with your request format. Please try again."


class NotOffered(InvalidMessage):
    """this is not offered here"""

    code = "unsupported"
    public = "This is not offered here."


class MessageTooLarge(Rejection):
    """the message is over a documented limit"""

    code = "message_too_large"
    public = "Your message is too large."


class NotAuthenticated(Rejection):
    """no valid credential"""

    code = "not_authenticated"
    public = "Please sign in."


class NotAllowed(Rejection):
    """this credential does not reach this far"""

    code = "not_allowed"
    public = "You are not allowed to do this."


class NotFound(Rejection):
    """no such thing"""

    code = "not_found"
    public = "Not found."


class ThreadNotFound(NotFound):
    """no such thread"""

    code = "thread_not_found"
    public = "I couldn't find the conversation thread. Please start a new conversation."


class Conflict(Rejection):
    """the thing exists and says otherwise"""

    code = "conflict"
    public = "This contradicts what is already stored."


class MessageConflict(Conflict):
    """this message id was already used for another text"""

    code = "message_conflict"


class MessageFrozen(Conflict):
    """too late: a run has begun to answer this message"""

    code = "message_frozen"


class WrongState(Conflict):
    """the thread is in a state that does not take this operation"""

    code = "wrong_state"


class ThreadBusy(Rejection):
    """a run is in progress on this thread"""

    code = "thread_busy"
    retryable = True
    public = "The assistant is still answering. Please try again in a moment."


class InboxFull(Rejection):
    """too many messages wait on this channel"""

    code = "inbox_full"
    retryable = True
    public = "Too many messages are waiting. Please try again in a moment."


class TooManyRequests(Rejection):
    """a rate limit was reached"""

    code = "too_many_requests"
    retryable = True
    public = "You are sending too fast. Please slow down."


class ModelError(TurnkeepError):
    """the model provider failed"""

    code = "model_error"
    public = "I encountered an issue while processing your request."
    status: int | None = None
    """Of the answer that was a refusal; None: nothing was answered, or the stream says it."""


class ModelUnavailable(ModelError):
    """the provider cannot be reached or answers with a server error"""

    code = "model_unavailable"
    retryable = True
    public = "I'm having trouble connecting to my services. Please try again in a moment."


class ModelUnreachable(ModelUnavailable):
    """no connection to the provider could be opened; it was asked nothing"""

    code = "model_unreachable"


class ModelTimedOut(ModelError):
    """the provider went silent"""

    code = "model_timed_out"
    retryable = True
    public = "The request took too long to process. Please try again."


class AnswerMalformed(ModelError):
    """the provider's stream ended without a terminal event or made no sense"""

    code = "answer_malformed"
    retryable = True
    public = "I'm having trouble connecting to my services. Please try again in a moment."


class AnswerUnreadable(AnswerMalformed):
    """the provider's answer has a form that is not understood"""

    code = "answer_unreadable"
    retryable = False


class ResponseLost(ModelError):
    """a response that was being worked out at the provider is not there any more"""

    code = "response_lost"
    retryable = True
    public = AnswerMalformed.public


class ModelRateLimited(ModelError):
    """the provider asks to slow down"""

    code = "model_rate_limited"
    retryable = True
    public = "I'm receiving too many requests right now. Please try again in a moment."


class ModelRefused(ModelError):
    """the provider refuses this request"""

    code = "model_refused"
    public = "There was an issue with your request format. Please try again."


class ContextTooLong(ModelError):
    """the request does not fit the model's context window"""

    code = "context_too_long"
    public = "This conversation has become too long. Please start a new one."

    def __init__(self, message: str | None = None, *, window: int | None = None) -> None:
        """`window`: tokens that the model takes, where the refusal says it."""
        super().__init__(message)
        self.window = window


class UnansweredCall(ModelError):
    """a tool call without its output reached the provider"""

    code = "unanswered_call"


class EndpointBlocked(ModelError):
    """this endpoint and key answer nobody until somebody acts"""

    code = "endpoint_blocked"


class QuotaExhausted(EndpointBlocked):
    """the account of this key has no credit left"""

    code = "quota_exhausted"


class CredentialsRefused(EndpointBlocked):
    """the provider refuses this key"""

    code = "credentials_refused"


class ModelGone(EndpointBlocked):
    """the provider does not know this model (any more)"""

    code = "model_gone"


class ToolError(TurnkeepError):
    """a tool did not give a result"""

    code = "tool_error"
    public = "I had trouble gathering the information. Please try again."


class UnknownTool(ToolError):
    """there is no tool of this name"""

    code = "unknown_tool"


class BadArguments(ToolError):
    """the arguments do not fit the tool's schema"""

    code = "bad_arguments"


class ToolTimedOut(ToolError):
    """the tool took too long"""

    code = "tool_timed_out"


class ToolFailed(ToolError):
    """the tool raised an error"""

    code = "tool_failed"


class ToolDenied(ToolError):
    """the call was declined"""

    code = "tool_denied"


class RunError(TurnkeepError):
    """the run cannot go on"""

    code = "run_error"
    public = "I encountered an issue while processing your request."


class TooManySteps(RunError):
    """the model kept calling tools"""

    code = "too_many_steps"
    public = "I had trouble gathering the information. Please try again."


class RunTimedOut(RunError):
    """the run reached its deadline"""

    code = "run_timed_out"
    public = "The request took too long to process. Please try again."


class BudgetSpent(RunError):
    """the budget of this period is spent"""

    code = "budget_spent"
    public = "The budget for this period is used up. Please try again later."


class TooManyDeaths(RunError):
    """workers died on this batch again and again"""

    code = "too_many_deaths"


class LeaseLost(RunError):
    """another worker owns this thread now; nothing was changed"""

    code = "lease_lost"


class RunBroke(RunError):
    """the run met an error that nobody expected"""

    code = "run_broke"
    retryable = True


class Waiting(TurnkeepError):
    """this run has to wait: budget, pace or an open circuit"""

    code = "waiting"
    retryable = True
    public = "I'm receiving too many requests right now. Your message waits for its turn."


class PaceReached(Waiting):
    """all workers together have asked as much of the provider as they may for now"""

    code = "pace_reached"


class BudgetReserved(Waiting):
    """other runs have reserved the rest of a budget"""

    code = "budget_reserved"


class PriceUnknown(Waiting):
    """a budget cannot be kept, because the price of the model is not known"""

    code = "price_unknown"


class StoreError(TurnkeepError):
    """the store failed"""

    code = "store_error"
    public = "I'm having trouble connecting to my services. Please try again in a moment."


class StoreUnavailable(StoreError):
    """the store cannot be reached"""

    code = "store_unavailable"
    retryable = True


class StoreUnfit(StoreUnavailable):
    """the store could lose what it accepts, so it accepts nothing until its settings are right"""

    code = "store_unfit"


class StoreFull(StoreError):
    """the store is out of memory or disk"""

    code = "store_full"
    retryable = True


class OutcomeUnknown(StoreError):
    """the reply was lost; it may have happened: repeat it with the same message id or Idempotency-Key"""

    code = "outcome_unknown"
    retryable = True


class StoreMisconfigured(StoreError):
    """the store's layout or configuration would break a promise"""

    code = "store_misconfigured"


class StoreUnsealable(StoreError):
    """what is stored is sealed, and none of our keys opens it"""

    code = "store_unsealable"


class ThreadQuarantined(StoreError):
    """the stored state of this thread is damaged; an operator has to look"""

    code = "thread_quarantined"
