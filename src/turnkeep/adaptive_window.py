"""A window that learns from the rhythm of its channel how long to wait for more.

It is a wish put on messages that have none of their own, before they are accepted; what the store
promises about windows stays as it is, and when one ends is computed in `store/rules_accept.py`. It
is learned per process and forgotten with it: a window that is not yet learned is the queue's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message

CHANNELS = 100_000
"""Channels whose rhythm is remembered; the longest silent ones are forgotten first."""


@dataclass(frozen=True, slots=True)
class AdaptiveRules:
    """A window is never outside of `shortest` and `longest`.

    `patience`: deviations above the usual gap that are waited for. `rarely`: who sends more than
    one message at a time less often than this gets the shortest window.
    """

    shortest: float = 0.25
    longest: float = 4.0
    patience: float = 1.3
    rarely: float = 0.08
    memory: float = 0.15
    enough: int = 4


@dataclass(slots=True)
class Rhythm:
    """What is known of one channel: the gaps inside of its bursts (mean and variance of their
    logarithm), and how often a message is followed by another.
    """

    last: float
    message_count: int = 0
    gaps: int = 0
    follows: float = 0.5
    mean: float = 0.0
    variance: float = 0.25

    def hear(self, at: float, rules: AdaptiveRules) -> None:
        """A message came."""
        # two messages may come in one tick, and 0 has no logarithm
        gap, self.last = max(at - self.last, 0.001), at
        is_follow = gap <= 2 * rules.longest
        self.message_count += 1
        self.follows += max(rules.memory, 1 / (self.message_count + 1)) * (float(is_follow) - self.follows)
        # of logarithms: gaps are skewed, and a mean of seconds would follow the longest pauses
        if is_follow:
            self._learn(math.log(gap), rules.memory)

    def _learn(self, gap: float, memory: float) -> None:
        self.gaps += 1
        # a plain mean at first, then one that forgets
        weight = max(memory, 1 / self.gaps)
        off = gap - self.mean
        self.mean += weight * off
        self.variance = (1 - weight) * self.variance + weight * off * (gap - self.mean)

    def window(self, rules: AdaptiveRules) -> float | None:
        """None: too little is known."""
        if self.message_count < rules.enough:
            return None
        if self.follows < rules.rarely or not self.gaps:
            return rules.shortest
        # with a floor: an even rhythm would else end the window at the usual gap, before half of
        # the messages
        deviation = max(math.sqrt(max(self.variance, 0.0)), 0.25)
        return min(max(math.exp(self.mean + rules.patience * deviation), rules.shortest), rules.longest)


class AdaptiveWindow:
    """The rhythms of all channels of this process."""

    def __init__(self, rules: AdaptiveRules | None = None) -> None:
        self.rules = rules or AdaptiveRules()
        self._rhythms: OrderedDict[Address, Rhythm] = OrderedDict()

    def apply(self, messages: Sequence[Message], now: float) -> list[Message]:
        """The messages as they are to be accepted, after their channels' rhythms have heard them."""
        return [self._with_window(message, now) for message in messages]

    def _with_window(self, message: Message, now: float) -> Message:
        # what was planned for later says nothing about the rhythm of typing
        if message.not_before is not None:
            return message
        window = self._hear(message.address, now).window(self.rules)
        return message if window is None or message.window is not None else replace(message, window=window)

    def _hear(self, address: Address, now: float) -> Rhythm:
        rhythm = self._rhythms.pop(address, None)
        if rhythm is None:
            rhythm = Rhythm(now)
        else:
            rhythm.hear(now, self.rules)
        self._rhythms[address] = rhythm
        if len(self._rhythms) > CHANNELS:
            self._rhythms.popitem(last=False)
        return rhythm
