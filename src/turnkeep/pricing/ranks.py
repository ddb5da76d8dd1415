"""The vocabularies that ship with the package, so that counting tokens never needs the network.

A rank file names every token of an encoding in the order in which byte pairs merge. The published
form is text, one ``base64 rank`` per line; ours is ``zlib(lengths + tokens)``: one byte of length
per token, then the bytes of all tokens, both in rank order. The published file can be rebuilt byte
for byte, and `SHA256` is what it must then have: the digest that tiktoken itself
checks after its download.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}

_COUNT_BYTES = 4


def load_ranks(encoding: str) -> list[bytes]:
    """The tokens of a shipped encoding; a token's place is its rank."""
    return unpack(_read_shipped(encoding))


def load_joined(encoding: str) -> tuple[bytes, bytes]:
    """The same, not taken apart: all tokens behind each other, and the length of each, a byte."""
    lengths, start, data = _parts(_read_shipped(encoding))
    return data[start:], lengths


def _read_shipped(encoding: str) -> bytes:
    return resources.files("turnkeep.pricing").joinpath("ranks", f"{encoding}.bin").read_bytes()


def pack(tokens: Sequence[bytes]) -> bytes:
    """Our form. No token is longer than 255 bytes."""
    count = len(tokens).to_bytes(_COUNT_BYTES, "big")
    return zlib.compress(count + bytes(map(len, tokens)) + b"".join(tokens), 9)


def unpack(blob: bytes) -> list[bytes]:
    """What `pack` was given."""
    lengths, start, data = _parts(blob)
    return list(_pieces(data, lengths, start))


def _parts(blob: bytes) -> tuple[bytes, int, bytes]:
    """The lengths of tokens, and where in what the tokens begin."""
    data = zlib.decompress(blob)
    start = _COUNT_BYTES + int.from_bytes(data[:_COUNT_BYTES], "big")
    return data[_COUNT_BYTES:start], start, data


def parse(rank_file: bytes) -> list[bytes]:
    """The tokens of a published rank file. Raises ValueError where ranks are not 0, 1, 2 …"""
    lines = [line.split() for line in rank_file.splitlines()]
    # Only then a token's place can stand for its rank, which is left out of our form.
    if [int(rank) for _, rank in lines] != list(range(len(lines))):
        raise ValueError("the ranks of this file are not contiguous: it cannot be packed without them")
    return [base64.b64decode(token) for token, _ in lines]


def publish(tokens: Iterable[bytes]) -> bytes:
    """The published rank file of these tokens."""
    return b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def _pieces(data: bytes, lengths: bytes, start: int) -> Iterator[bytes]:
    for length in lengths:
        yield data[start : start + length]
        start += length
