"""The codec that comes along: AES-256-GCM by `cryptography`, keys by id, the newest first.

The nonce is made of the text itself (HMAC-SHA-256 under a key of its own, cut to 96 bits), so that
equal texts of one tenant's queue are sealed alike and a repeat is known as one. Whoever reads the
store sees which texts are equal and how long they are, and nothing else. Two different texts share
a nonce with a chance of 2⁻⁹⁶: keep a key below some 2³² texts, then put a new one before it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.errors import ConfigurationError

# 96 bits, what NIST SP 800-38D has GCM use directly; any other length is hashed first.
NONCE = 12
KEY = 32
_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class AesCodec:
    """Seals with the first of these keys (32 bytes each, by id), opens with all of them."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != KEY or not _ID.fullmatch(name) for name, key in keys.items()):
            raise ConfigurationError(f"a key has an id of 1 to 32 of A-Z a-z 0-9 _ . - and {KEY} bytes")
        self.keys: Sequence[str] = tuple(keys)
        aead = _aead()
        self._ciphers = {name: aead(_derive(key, b"seal")) for name, key in keys.items()}
        self._nonces = {name: _derive(key, b"nonce") for name, key in keys.items()}

    def seal(self, plain: bytes, *, about: bytes, key: str) -> bytes:
        # The length first: without it a byte may move from
        # `about` to the text and give the same nonce.
        nonce_input = len(about).to_bytes(8, "big") + about + plain
        nonce = hmac.digest(self._nonces[key], nonce_input, "sha256")[:NONCE]
        return nonce + bytes(self._ciphers[key].encrypt(nonce, plain, about))

    def open(self, token: bytes, *, about: bytes, key: str) -> bytes:
        try:
            return bytes(self._ciphers[key].decrypt(token[:NONCE], token[NONCE:], about))
        except Exception as error:  # InvalidTag, or too short: nothing else is of use to know
            raise ValueError("it does not open") from error


def codec_of(text: str) -> AesCodec:
    """From ``id:base64,id:base64``, the newest first. Raises `ConfigurationError`,
    which shows no key.
    """
    keys: dict[str, bytes] = {}
    for one in text.split(","):
        name, _, value = one.strip().partition(":")
        try:
            key = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY or not _ID.fullmatch(name) or name in keys:
            raise ConfigurationError(
                f"TURNKEEP_STORE_KEYS: expected ID:BASE64 of {KEY} bytes, with commas between, each id once;"
                " make one with `openssl rand -base64 32`"
            )
        keys[name] = key
    return AesCodec(keys)


def _derive(key: bytes, purpose: bytes) -> bytes:
    """One key for each purpose: HKDF with SHA-256, its one block (RFC 5869)."""
    pseudorandom = hmac.digest(b"turnkeep store", key, hashlib.sha256)
    return hmac.digest(pseudorandom, purpose + b"\x01", hashlib.sha256)


def _aead() -> Any:
    # Only where it is used: it comes with an extra, and most stores are not sealed.
    try:
        return importlib.import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM
    except ImportError:
        raise ConfigurationError(
            "sealing the store needs cryptography, run: python -m pip install 'turnkeep[jwt]'"
        ) from None
