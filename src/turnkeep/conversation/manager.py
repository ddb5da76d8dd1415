"""`ConversationManager`: remembers conversations, in the same rows that the queue uses."""

from __future__ import annotations

import asyncio
import inspect
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Never, Self
from urllib.parse import quote

from turnkeep.conversation.pruning import prune
from turnkeep.conversation.role_messages import items_of, messages_of
from turnkeep.conversation.summary import Summarize
from turnkeep.errors import ConfigurationError, InvalidMessage, OutcomeUnknown, ThreadBusy
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import DEFAULT_QUEUE, DEFAULT_TENANT, Address, Item, SystemItem, UserItem
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.tokenizer import Tokenizer, tokenizer_for
from turnkeep.settings import Settings
from turnkeep.spelling import meant_name, strangers_sentence
from turnkeep.store import Policies, Policy, Store, store_of
from turnkeep.store.contract import Threads
from turnkeep.store.values import Claim, History, TranscriptEntry
from turnkeep.telemetry import get_log

log = get_log(__name__)

SYSTEM_MARK = "system_messages"
"""In the metadata of a thread whose transcript holds system messages: then a run looks for them."""

SUMMED_UP = "Summary of the conversation so far:\n"
TRIES = 3

REDIS_PLACE = ("host", "port", "db", "username", "password", "tls")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is told of a conversation. `complete`: nothing was left out for lack of room."""

    session_id: str
    items: tuple[Item, ...]
    tokens: int
    summary: str | None = None
    complete: bool = True

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As ``{"role": …, "content": …}``, a summary of older parts first."""
        summary = [SystemItem(SUMMED_UP + self.summary)] if self.summary else []
        return messages_of([*summary, *self.items])


class ConversationManager:
    """Conversations by session id, which is the channel of a thread: a queue on the same store
    answers there.

    `redis` is a URL or ``{"host": …, "port": …}``; `store` a path of an SQLite file, ``memory:``, a
    URL, or a store that its owner opens and closes. Without either the settings decide, as for the
    queue. `ttl` is in seconds without activity; it is set when a conversation begins here and
    afterwards only ever lengthened. What is told is within `max_tokens` and `max_messages`; what is
    kept is older, until the store's own bounds. With `summarize` older parts are replaced by a
    summary when they do not fit any more.

    Nothing is opened before the first use. Raises `ThreadBusy` where a run is answering
    on the same thread.
    """

    def __init__(
        self,
        redis: str | Mapping[str, Any] | None = None,
        *,
        store: Store | str | Path | None = None,
        ttl: float | None = None,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        summarize: Summarize | None = None,
        queue_prefix: str = DEFAULT_QUEUE,
        tenant: str = DEFAULT_TENANT,
        **strangers: Never,
    ) -> None:
        _check_names(redis, strangers)
        for name, value in {"ttl": ttl, "max_messages": max_messages, "max_tokens": max_tokens}.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigurationError(f"{name} is {value}, use a number above 0 or leave it out")
        self._settings = _settings(redis, store)
        self._owns_store = store is None or isinstance(store, str | Path)
        self._store = _own_store(self._settings) if store is None or isinstance(store, str | Path) else store
        # two first uses at once must open the store once
        self._opening = asyncio.Lock()
        self._is_open = not self._owns_store
        self._is_closed = False
        self._catalog = Catalog.load(self._settings.price_file)
        self._place = (tenant, queue_prefix)
        self._summarize = summarize
        self.ttl = ttl
        self.max_messages = max_messages
        self.max_tokens = max_tokens

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the store, if it was opened here.

        What is asked afterwards raises `ConfigurationError`.
        """
        self._is_closed = True
        if self._owns_store and self._is_open:
            self._is_open = False
            await self._store.close()

    async def add_message(
        self, session_id: str, message: Mapping[str, Any] | Item, model: str | None = None, *, key: str | None = None
    ) -> None:
        """Add one message, ``{"role": …, "content": …}`` or an item, counted in the
        tokens of a model.

        With the `key` of the last addition nothing happens: so it can be repeated safely.
        """
        items = items_of(message)
        store, address = await self._open(), self._address(session_id)
        texts = [part.text for item in items if isinstance(item, UserItem) for part in item.content]
        tokenizer = await self._tokenizer(model, texts)
        await self._begin(address, has_system=any(item.kind == "system" for item in items))
        entries = [TranscriptEntry(item, tokenizer.count_item(item)) for item in items]
        # under a name in any case: it makes the repeats after a lost reply harmless
        await _append(store, address, entries, key or secrets.token_hex(8))
        if self._summarize is not None:
            await self._compact(address, tokenizer, self._summarize)

    async def get_conversation(self, session_id: str) -> Conversation:
        """What is told of it within the limits; an unknown session is an empty conversation."""
        store = await self._open()
        history = await store.history(self._address(session_id))
        tokens = self.max_tokens
        if tokens is not None and history.summary:
            tokens = max(0, tokens - await self._weight(history.summary))
        excerpt = prune(history.entries, tokens=tokens, messages=self.max_messages)
        if history.summary:  # the summary has put them behind what was said after them
            excerpt.sort(key=lambda entry: entry.item.kind != "system")
        return Conversation(
            session_id,
            tuple(entry.item for entry in excerpt),
            sum(entry.tokens for entry in excerpt),
            history.summary,
            complete=len(excerpt) == len(history.entries) and history.summary is None,
        )

    async def clear(self, session_id: str) -> bool:
        """Forget a conversation and everything of its thread.

        False if there is none; `ThreadBusy` while messages wait.
        """
        store = await self._open()
        return await store.forget(self._address(session_id))

    async def _open(self) -> Store:
        if self._is_closed:
            raise ConfigurationError("this conversation manager is closed, make a new one")
        async with self._opening:
            if not self._is_open:
                await self._store.open()
                self._is_open = True
        return self._store

    def _address(self, session_id: str) -> Address:
        if not session_id:
            raise InvalidMessage("a session id is a text of at least one character")
        return Address(*self._place, session_id)

    async def _tokenizer(self, model: str | None, texts: Iterable[str]) -> Tokenizer:
        tokenizer = tokenizer_for(model or self._catalog.default, self._catalog)
        await tokenizer.load(texts)
        return tokenizer

    async def _weight(self, summary: str) -> int:
        return (await self._tokenizer(None, [summary])).count_item(SystemItem(SUMMED_UP + summary))

    async def _begin(self, address: Address, *, has_system: bool) -> None:
        """Give the thread what it has to have before its first message."""
        if self.ttl is None and not has_system:
            return
        record = await self._store.thread(address, create=True)
        if record is None:
            return
        is_new = not record.turns and not record.messages
        if self.ttl is not None and (is_new or self.ttl > record.expires_at - record.active_at):
            await self._store.update(address, {"ttl": self.ttl})
        if has_system and SYSTEM_MARK not in record.metadata:
            await self._store.update(address, {"metadata": {SYSTEM_MARK: "yes"}})

    async def _compact(self, address: Address, tokenizer: Tokenizer, summarize: Summarize) -> None:
        """Replace what does not fit by a summary, down to half of the limits, so that this is not
        done every time.
        """
        history = await self._store.history(address)
        entries = history.entries
        if len(prune(entries, tokens=self.max_tokens, messages=self.max_messages)) == len(entries):
            return
        newest = prune(entries, tokens=_half(self.max_tokens), messages=_half(self.max_messages))
        first = next((entry.turn for entry in newest if entry.item.kind != "system"), entries[-1].turn + 1)
        oldest = [entry for entry in entries if entry.turn < first]
        talk = [entry.item for entry in oldest if entry.item.kind != "system"]
        if not talk:
            return
        summary = await summarize(history.summary, talk)
        system = [
            TranscriptEntry(entry.item, tokenizer.count_item(entry.item))
            for entry in oldest
            if entry.item.kind == "system"
        ]
        try:
            # before their turns are cut off: a crash in between repeats them instead of losing them
            if system:
                await _append(self._store, address, system, secrets.token_hex(8))
            await self._store.compact(address, through_turn=first - 1, summary=summary)
        except ThreadBusy:
            log.info("compaction_postponed", reason="a run is in progress on the thread")


async def recall(store: Threads, address: Address, *, tokens: int, claim: Claim | None = None) -> History:
    """The newest whole turns of a thread that fit, and the system messages of older ones."""
    history = await store.history(address, tokens=tokens, claim=claim)
    if history.complete:
        return history
    record = await store.thread(address)
    # the mark spares every other thread the reading of its whole past
    if record is None or SYSTEM_MARK not in record.metadata:
        return history
    before = history.entries[0].turn if history.entries else None
    older = await store.history(address, before_turn=before, claim=claim)
    system = [entry for entry in older.entries if entry.item.kind == "system"]
    return replace(history, entries=tuple(prune([*system, *history.entries], tokens=tokens)))


async def _append(store: Store, address: Address, entries: Sequence[TranscriptEntry], once: str) -> None:
    """Add entries once, also when a reply is lost."""
    for _ in range(TRIES - 1):
        with suppress(OutcomeUnknown):
            await store.append(address, entries, once=once)
            return
    await store.append(address, entries, once=once)


def _half(limit: int | None) -> int | None:
    return None if limit is None else max(1, limit // 2)


def _settings(redis: str | Mapping[str, Any] | None, store: Store | str | Path | None) -> Settings:
    if redis is not None and store is not None:
        raise ConfigurationError("redis and store both say where conversations are kept, give one of them")
    values: dict[str, Any] = {}
    if isinstance(store, str | Path):
        values["store"] = str(store)
    elif redis is not None:
        values["store"] = redis if isinstance(redis, str) else redis_url(redis)
    return Settings.load(**values)


def _own_store(settings: Settings) -> Store:
    policy = Policy(
        expiry=settings.thread_expiry, history_items=settings.history_items, history_bytes=settings.history_bytes
    )
    return store_of(settings, Policies(policy))


def _check_names(redis: object, strangers: Mapping[str, object]) -> None:
    """Raises `ConfigurationError` for options that there are not, and for one object of them all."""
    options = [name for name in inspect.signature(ConversationManager).parameters if name not in ("redis", "strangers")]
    if strangers:
        raise ConfigurationError(strangers_sentence("ConversationManager", strangers, ["redis", *options]))
    if isinstance(redis, Mapping) and ("redis" in redis or any(meant_name(str(name), options) for name in redis)):
        raise ConfigurationError(
            "ConversationManager takes keywords, not one object: "
            "ConversationManager(redis={'host': …, 'port': …}, ttl=…, max_messages=…)"
        )


def redis_url(place: Mapping[str, Any]) -> str:
    """A URL from ``{"host", "port", "db", "username", "password", "tls"}``; none is needed."""
    if strangers := [str(name) for name in place if name not in REDIS_PLACE]:
        raise ConfigurationError(strangers_sentence("redis", strangers, REDIS_PLACE))
    user, password = quote(place.get("username") or "", safe=""), quote(place.get("password") or "", safe="")
    login = f"{user}:{password}@" if user or password else ""
    scheme = "rediss" if place.get("tls") else "redis"
    return f"{scheme}://{login}{place.get('host', 'localhost')}:{place.get('port', 6379)}/{place.get('db', 0)}"
