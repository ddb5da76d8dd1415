"""What makes an operation safe to repeat: an id, under which the store keeps its result.

An operation whose reply was lost may be repeated only if the repeat cannot touch what others did
meanwhile. Messages, claims, records and events have names of their own that tell a repeat. Every
other operation that changes something takes `once`, a name for this call: again with the same name
and the same arguments it gives the first result and touches nothing, whatever has happened since,
for `RESULT_LIFETIME` seconds. A refusal changes nothing, so it is not kept.

The result is kept beside the threads, because it outlives them: a `forget` that is repeated must
not take the next thread along. What was said goes with its thread all the same: a repeat of an
operation whose result held words of a thread that was forgotten since raises `ThreadNotFound`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from turnkeep.messages import Address

RESULT_LIFETIME = 86_400.0
"""Seconds that the result of a named operation is kept."""

MOST_RESULTS = 65_536
"""Results kept at once in a store that is not divided; beyond that the older half goes."""


def operations_of(address: Address) -> str:
    """What the ids of one thread's operations begin with, where an engine keeps them beside those
    of others.
    """
    # Of `repr`, which quotes: names run together ("a", "bc" and "ab", "c") would share results.
    place = repr((address.tenant, address.queue, address.channel)).encode("utf-8", "surrogatepass")
    return f"{blake2b(place, digest_size=12).hexdigest()}:"


def operation_id(once: str, name: str, *arguments: Any) -> str:
    """The same for the same call alone, so that a name used again for another
    call makes another operation.
    """
    call = repr((once, name, arguments)).encode("utf-8", "surrogatepass")
    return blake2b(call, digest_size=16).hexdigest()
