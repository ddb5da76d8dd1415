"""What tokens are signed with: a shared secret (HS256), or a public key and the one algorithm that
it is for.

The two are set under different names, because a public key that is taken for a secret lets
everybody sign: it is public. What looks like anything but a secret is therefore refused as one,
with a sentence that never repeats it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass

Algorithm = Literal["HS256", "RS256", "ES256", "ES384", "EdDSA"]
PUBLIC: tuple[Algorithm, ...] = ("EdDSA", "ES256", "ES384", "RS256")
"""Those whose keys may be published."""

SHORTEST_SECRET = 32
SHORTEST_RSA = 2048
RSA_SIZES = (2048, 3072, 4096)
LEAST_BITS = 96.0
"""Of a secret by the letters that are in it: 32 random hexadecimal digits, of which a few are
missing, have more.
"""
LEAST_PAIRS = 20
"""Different pairs of neighbours in a secret: 32 random letters of any alphabet have more, rows and
repeats fewer.
"""

_SSH = re.compile(rb"....(?:ssh-|ecdsa-|sk-ssh|sk-ecdsa)", re.DOTALL)

_PATH = re.compile(r"\s*(?:\.{0,2}[/~]|~|[A-Za-z]:[\\/])[^\s+=]*\s*")
_FILE = re.compile(r".*\.(?:pem|key|pub|crt|cer|der|json|jwks?|txt|env|ya?ml|toml|conf)\s*", re.IGNORECASE | re.DOTALL)

_WORDS = re.compile(
    r"secret|change.?me|change.?this|replace.?(?:me|this)|password|passw0rd|passwort|default|example|sample|placeholder|"
    r"insert|your|here|must|please|jwt|token|shared|public|private|auth|turnkeep|keycloak|supabase|super|admin|root|"
    r"letmein|welcome|iloveyou|monkey|dragon|qwerty(?:uiop)?|asdf(?:ghjkl)?|zxcv(?:bnm)?|testing|test|dummy|development|"
    r"production|staging|localhost|bytes|characters|at.?least|long|with|this|that|for|the|and|key|sign(?:ing|ature)?|"
    r"hs256|sha256|\b(?:a|an|is|of|in|to|my|me|or|and|not)\b",
    re.IGNORECASE,
)
WORDLESS_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key, the one algorithm that it is for, and what kind it is, for people."""

    key: Any
    algorithm: Algorithm
    kind: str


def public_key(text: str) -> SigningKey:
    """Of PEM, or of its body alone as identity providers show it. Raises `ConfigurationError`."""
    if "PRIVATE KEY" in text:
        raise ConfigurationError("TURNKEEP_JWT_KEY is a private key: set the public one")
    try:
        if "-----BEGIN" in text:
            # environment files hold PEM with its line ends written out
            key = load_pem_public_key(text.replace("\\n", "\n").encode())
        else:
            key = load_der_public_key(_decode_base64(text) or b"")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            "TURNKEEP_JWT_KEY cannot be read as a public key (PEM, or base64 of its SPKI): set a shared secret as "
            "TURNKEEP_JWT_SECRET, and a file or URL with keys as TURNKEEP_JWT_JWKS"
        ) from error
    result = signing_key(key)
    if result is None:
        raise ConfigurationError(
            f"TURNKEEP_JWT_KEY must be an Ed25519, P-256 or P-384 key, or an RSA key of at least {SHORTEST_RSA} bits"
        )
    return result


def signing_key(key: object) -> SigningKey | None:
    """A public key and what it is for; None for one that is not taken."""
    if isinstance(key, Ed25519PublicKey):
        return SigningKey(key, "EdDSA", "Ed25519 public key")
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return SigningKey(key, "ES256", "P-256 public key")
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP384R1):
        return SigningKey(key, "ES384", "P-384 public key")
    if isinstance(key, RSAPublicKey) and key.key_size >= SHORTEST_RSA:
        return SigningKey(key, "RS256", f"RSA public key of {key.key_size} bits")
    return None


def shared_secret(text: str) -> SigningKey:
    """Raises `ConfigurationError` for what others may know or guess."""
    if (reason := _why_no_secret(text)) is not None:
        raise ConfigurationError(
            f"TURNKEEP_JWT_SECRET {reason}: take random letters, like those of `openssl rand -base64 48`"
        )
    return SigningKey(text, "HS256", f"shared secret of {len(text.encode())} bytes")


def _why_no_secret(text: str) -> str | None:
    """What is wrong with a secret; None if nothing is."""
    # a reason, and never the secret itself: errors end in logs
    for looks_wrong, reason in _REASONS:
        if looks_wrong(text):
            return reason
    return None


def _is_armoured(text: str) -> bool:
    return "-----BEGIN" in text or "PRIVATE KEY" in text or "PUBLIC KEY" in text


def _is_encoded_key(text: str) -> bool:
    """DER begins with a sequence as long as all the rest; what OpenSSH publishes begins with its
    name. Deployments encode a second time what is encoded already.
    """
    if re.match(r"(?:ssh-|ecdsa-sha2|sk-)", text.strip()):
        return True
    for data in _decodings(text):
        inner = data.decode("latin-1")
        if _is_der(data) or _SSH.match(data) or _is_number_of_key(data) or _is_json(inner) or _is_armoured(inner):
            return True
        if inner.isascii() and inner.isprintable() and _is_encoded_key(inner):
            return True
    return False


def _is_number_of_key(data: bytes) -> bool:
    """A key without its wrapping, as it stands in a JWK or a certificate's text: the modulus of
    RSA, a point of a curve. One secret of four that are as long as a modulus is taken for one;
    nobody needs one so long.
    """
    number = data.lstrip(b"\0")
    if len(number) * 8 in RSA_SIZES and number[0] >= 0x80 and number[-1] % 2:
        return True
    for curve in (SECP256R1(), SECP384R1()):
        if len(data) == 1 + 2 * curve.key_size // 8:
            with contextlib.suppress(ValueError):
                # the curve decides: hardly any random bytes are a point of it, and
                # every public key is
                EllipticCurvePublicKey.from_encoded_point(curve, data)
                return True
    return False


def _is_der(data: bytes) -> bool:
    """A sequence of at least two members that fill it to the last byte. A fitting length alone is
    not enough: one random secret of 65,536 begins so.
    """
    members = list(_der_members(data))
    return len(members) == 1 and members[0][0] == 0x30 and len(list(_der_members(members[0][1]))) > 1


def _der_members(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each; none where the lengths do not add up."""
    members = []
    while data:
        if len(data) < 2:
            return
        size, start = data[1], 2
        if size > 0x80:
            start = 2 + size - 0x80
            size = int.from_bytes(data[2:start], "big")
        if start + size > len(data):
            return
        members.append((data[0], data[start : start + size]))
        data = data[start + size :]
    yield from members


def _is_json(text: str) -> bool:
    """A JWK, a set of them, or the answer of a discovery endpoint."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_token(text: str) -> bool:
    return re.fullmatch(r"\s*(?:[Bb]earer\s+)?eyJ[\w-]+\.[\w-]+\.[\w-]*\s*", text) is not None


def _is_address(text: str) -> bool:
    return (
        re.match(r"\s*(?:[a-z][a-z0-9+.-]*:|www\.|[a-z0-9.-]+\.[a-z]{2,}(?::\d+)?/)", text, re.IGNORECASE) is not None
    )


def _is_path(text: str) -> bool:
    """Base64 may begin with a slash, but has neither dots, dashes nor tildes beside it, and hardly
    lower case alone.
    """
    if _FILE.fullmatch(text):
        return True
    if not _PATH.fullmatch(text) or "/" not in text.replace("\\", "/"):
        return False
    return text.lstrip()[0] in ".~" or text[1:2] == ":" or bool(re.search(r"[._~-]", text)) or text == text.lower()


def _is_words(text: str) -> bool:
    """What everybody writes first counts for nothing; so much has to be left that it carries the
    secret alone.
    """
    rest = re.sub(r"[\W_]+", "", _WORDS.sub(" ", text))
    letters = re.sub(r"[\W_]+", "", text)
    return len(rest) < SHORTEST_SECRET / 2 and len(rest) < WORDLESS_SHARE * len(letters)


def _has_little_variety(text: str) -> bool:
    bits = len(text) * math.log2(max(1, len(set(text))))
    steps = [ord(b) - ord(a) for a, b in itertools.pairwise(text)]
    pairs = min(len(set(itertools.pairwise(row))) for row in (list(map(ord, text)), steps))
    return bits < LEAST_BITS or pairs < LEAST_PAIRS


_REASONS: tuple[tuple[Any, str], ...] = (
    (_is_armoured, "is a key in PEM, which does not belong there: set a public one as TURNKEEP_JWT_KEY"),
    (_is_encoded_key, "is an encoded key or certificate, which others know: set a public key as TURNKEEP_JWT_KEY"),
    (_is_json, "is a JSON text, like a published set of keys: set that as TURNKEEP_JWT_JWKS, in a file"),
    (_is_token, "is a token, which others have seen"),
    (_is_address, "is an address, which others know: set that of a set of keys as TURNKEEP_JWT_JWKS"),
    (_is_path, "is the name of a file, and no file is read for it"),
    (lambda text: len(text.encode()) < SHORTEST_SECRET, f"has less than {SHORTEST_SECRET} bytes"),
    (_is_words, "is made of words that everybody tries first"),
    (_has_little_variety, "repeats a few letters or counts them up, so it can be guessed"),
)


def _decodings(text: str) -> list[bytes]:
    """What a text may stand for."""
    readings = [_decode_base64(text)]
    with_no_colons = re.sub(r"[\s:]+", "", text)
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", with_no_colons):
        readings.append(bytes.fromhex(with_no_colons))
    return [data for data in readings if data]


def _decode_base64(text: str) -> bytes | None:
    """Of base64 in either alphabet, with or without line ends and padding."""
    letters = re.sub(r"(?:\\[nr]|[\s\"'])+", "", text).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
