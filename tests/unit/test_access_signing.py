"""What tokens may be signed with, and what an identity provider says in them."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.rows import each_row
from tests.rsa_keys import rsa_key
from turnkeep.auth.signing import shared_secret
from turnkeep.auth.tokens import LEEWAY, Tokens, tokens_of
from turnkeep.errors import ConfigurationError, NotAuthenticated
from turnkeep.settings import Settings

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
PEM, DER, SSH = serialization.Encoding.PEM, serialization.Encoding.DER, serialization.Encoding.OpenSSH
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
RANDOM = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"


def der(key: Any, form: serialization.PublicFormat = SPKI) -> bytes:
    return key.public_key().public_bytes(DER, form)  # type: ignore[no-any-return]


def pem(key: Any) -> str:
    return key.public_key().public_bytes(PEM, SPKI).decode()  # type: ignore[no-any-return]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "login")])
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(rsa_key().public_key())
    builder = builder.serial_number(1).not_valid_before(begun).not_valid_after(begun + timedelta(days=1))
    return builder.sign(rsa_key(), hashes.SHA256()).public_bytes(DER)


def jwk(key: Any) -> dict[str, Any]:
    kind = {"rsa": jwt.algorithms.RSAAlgorithm, "ec": jwt.algorithms.ECAlgorithm}.get(
        "rsa" if isinstance(key, rsa.RSAPrivateKey) else "ec" if isinstance(key, ec.EllipticCurvePrivateKey) else "",
        jwt.algorithms.OKPAlgorithm,
    )
    return json.loads(kind.to_jwk(key.public_key()))  # type: ignore[no-any-return,attr-defined]


def modulus(key: Any) -> bytes:
    number = key.public_key().public_numbers().n
    return bytes(number.to_bytes(number.bit_length() // 8, "big"))


def pem_of(name: str) -> str:
    return pem(KEYS[name]())


def body_of(name: str) -> str:
    return base64_of(der(KEYS[name]()))


KEYS: dict[str, Callable[[], Any]] = {
    "RSA": rsa_key, "P-256": lambda: P256, "P-384": lambda: P384, "Ed25519": lambda: ED,
}  # fmt: skip
KNOWN_TO_OTHERS: dict[str, str | Callable[[], str]] = {
    **{f"PEM of {name}": partial(pem_of, name) for name in ("RSA", "P-256", "Ed25519")},
    "PEM in one line": lambda: pem(rsa_key()).replace("\n", "\\n"),
    "PEM without its begin": lambda: pem(rsa_key()).removeprefix("-----BEGIN PUBLIC KEY-----").replace("-END", "-end"),
    **{f"bare body of {name}": partial(body_of, name) for name in ("RSA", "P-256", "Ed25519")},
    "bare body in lines": lambda: "\n".join(pem(rsa_key()).splitlines()[1:-1]),
    "bare body without padding": lambda: base64_of(der(rsa_key())).rstrip("="),
    "bare body for addresses": lambda: base64.urlsafe_b64encode(der(rsa_key())).decode(),
    "bare body in quotes": lambda: f'"{base64_of(der(rsa_key()))}"',
    "PKCS#1 body": lambda: base64_of(der(rsa_key(), serialization.PublicFormat.PKCS1)),
    "a certificate": lambda: base64_of(certificate()),
    "hexadecimal body": der(P256).hex(),
    "hexadecimal body with colons": ":".join(f"{byte:02X}" for byte in der(P256)),
    "an OpenSSH key": ED.public_key().public_bytes(SSH, serialization.PublicFormat.OpenSSH).decode(),
    "the body of an OpenSSH key": ED.public_key()
    .public_bytes(SSH, serialization.PublicFormat.OpenSSH)
    .decode()
    .split()[1],
    "PEM of RSA in base64": lambda: base64_of(pem_of("RSA").encode()),
    "PEM of Ed25519 in base64": base64_of(pem(ED).encode()),
    "a body encoded twice": lambda: base64_of(base64_of(der(rsa_key())).encode()),
    "a JWK in base64 twice": base64_of(base64_of(json.dumps(jwk(P256)).encode()).encode()),
    "the modulus in a JWK": lambda: jwk(rsa_key())["n"],
    "a modulus as certificates print it": lambda: "00:" + ":".join(f"{b:02x}" for b in modulus(rsa_key())),
    "a point of P-256": base64_of(der(P256)[-65:]),
    "a point in hexadecimal": der(P256)[-65:].hex(),
    "a JWK": lambda: json.dumps(jwk(rsa_key())),
    "a JWKS": json.dumps({"keys": [jwk(P256)]}),
    "a list of keys": json.dumps([jwk(ED)]),
    "a JWKS in base64": base64_of(json.dumps({"keys": [jwk(P256)]}).encode()),
    "a token": jwt.encode({"sub": "a"}, RANDOM),
    "a token with its scheme": "Bearer " + jwt.encode({"sub": "a"}, RANDOM),
    "a URL": "https://login.example.com/realms/main/protocol/openid-connect/certs",
    "a URL of a file": "file:///etc/turnkeep/keys/jwt-public-key.pem",
    "a URN": "urn:example:turnkeep:signing:key:0001",
    "a page": "www.example.com/.well-known/jwks.json?x=1",
    "a URL without its scheme": "login.example.com/realms/main/protocol/openid-connect/certs",
    "a URL with a port": "keycloak.example.com:8443/realms/main/protocol/openid-connect",
    "a path": "/etc/turnkeep/keys/jwt-public-key.pem",
    "a path without suffix": "/run/secrets/turnkeep_jwt_signing_key",
    "a plain path": "/var/lib/turnkeep/configuration/signingkey",
    "a relative path": "./keys/turnkeep/production/jwt.pub",
    "a path at home": "~/keys/turnkeep/production/signing/jwt",
    "a path upwards": "../../keys/turnkeep/production/signing",
    "a path of Windows": "C:\\ProgramData\\turnkeep\\keys\\jwt-public",
    "a file": "turnkeep-production-public-signing.pem",
}


def known_to_others(name: str) -> str:
    text = KNOWN_TO_OTHERS[name]
    return text if isinstance(text, str) else text()


GUESSED: dict[str, str] = {
    "short": "k3yX9q",
    "empty words": "change-me-change-me-change-me-change-me",
    "the usual": "your-256-bit-secret-your-256-bit-secret",
    "of a manual": "super-secret-jwt-token-with-at-least-32-characters-long",
    "of ours": "a-shared-secret-of-at-least-32-bytes-for-the-tests",
    "with a number": "turnkeep-production-secret-key-2026-1",
    "one letter": "a" * 64,
    "two letters": "ab" * 32,
    "a row": "abcdefghijklmnopqrstuvwxyz0123456789",
    "a row back": "9876543210zyxwvutsrqponmlkjihgfedcba",
    "digits": "01234567890123456789012345678901",
    "a repeat": "X7f!q2Lm" * 5,
    "zeros": "0" * 64,
    "hexadecimal zeros": "00" * 31 + "01",
    "a keyboard": "qwertyuiopasdfghjklzxcvbnmqwertyuiop",
    "blanks": " " * 40,
    "a password": "Password123!Password123!Password1",
    "placeholder": "<insert-your-shared-secret-here-please>",
}


@each_row("name", [*KNOWN_TO_OTHERS, *GUESSED])
def test_what_others_know_or_guess_is_no_secret(name: str) -> None:
    """Whoever knows the secret makes himself the admin of any tenant."""
    text = GUESSED.get(name) or known_to_others(name)
    for said in (text, f"  {text}", f"{text}\n"):
        with pytest.raises(ConfigurationError, match="TURNKEEP_JWT_SECRET") as caught:
            tokens_of(Settings.load(jwt_secret=said))
        assert not text.strip() or text.strip()[:12] not in str(caught.value), "a refusal does not repeat it"


def test_random_secrets_are_taken(size: Callable[[int, int], int]) -> None:
    source = random.Random(15)
    for _ in range(size(200, 50_000)):
        data = source.randbytes(48)
        for text in (
            data[:16].hex(),
            data.hex(),
            base64_of(data[:24]),
            base64_of(data),
            base64.urlsafe_b64encode(data).decode(),
            hashlib.sha256(data).hexdigest(),
            "".join(source.choices("abcdefghijklmnopqrstuvwxyz234567", k=32)),
        ):
            assert shared_secret(text).algorithm == "HS256"
    assert shared_secret("correct horse battery staple, plum, nine otters").algorithm == "HS256"


@pytest.mark.parametrize("name", ["a URL", "a path", "a JWK", "a token", "an OpenSSH key", "a certificate", "a JWKS"])
def test_a_public_key_is_nothing_but_one(name: str) -> None:
    for text in (known_to_others(name), RANDOM, "nonsense"):
        with pytest.raises(ConfigurationError, match="TURNKEEP_JWT_SECRET"):
            tokens_of(Settings.load(jwt_key=text))


def claims(**others: Any) -> dict[str, Any]:
    values = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 60, "channels": ["a"], **others}
    return {name: value for name, value in values.items() if value is not None}


def tokens(**values: Any) -> Tokens:
    made = tokens_of(Settings.load(**({"jwt_secret": RANDOM} if "jwt_key" not in values else {}), **values))
    assert made is not None
    return made


def signed(**others: Any) -> str:
    """Also with claims of a kind that no careful library would sign."""
    return jwt.api_jws.encode(json.dumps(claims(**others)).encode(), RANDOM, algorithm="HS256")


@pytest.mark.parametrize(
    ("name", "algorithm"), [("RSA", "RS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("Ed25519", "EdDSA")]
)
@pytest.mark.parametrize("form", ["PEM", "bare"])
async def test_a_public_key_takes_tokens_of_its_own_algorithm_alone(name: str, algorithm: str, form: str) -> None:
    key = KEYS[name]()
    public = pem(key) if form == "PEM" else base64_of(der(key))
    known = tokens(jwt_key=public)
    assert (await known.authenticate(jwt.encode(claims(), key, algorithm=algorithm))).subject == "user:olga"
    assert algorithm in await known.describe()
    for other, other_algorithm in (
        (rsa_key(), "RS256"),
        (rsa_key(), "RS512"),
        (rsa_key(), "PS256"),
        (P256, "ES256"),
        (P384, "ES384"),
        (ED, "EdDSA"),
    ):
        if other_algorithm != algorithm:
            with pytest.raises(NotAuthenticated):
                await known.authenticate(jwt.encode(claims(), other, algorithm=other_algorithm))
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256"}, claims())]
    head = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    for secret in (public.encode(), public.strip().encode(), der(key)):
        signature = base64.urlsafe_b64encode(jwt.algorithms.HMACAlgorithm(hashlib.sha256).sign(head.encode(), secret))
        with pytest.raises(NotAuthenticated):
            await known.authenticate(f"{head}.{signature.rstrip(b'=').decode()}")


# ---------------------------------------------------------------- what providers say


@pytest.mark.parametrize(
    "iss", [None, "", "https://evil.example.com", "https://login.example.com/", ["https://login.example.com"], 7]
)
async def test_another_issuer_is_refused_where_one_is_set(iss: object) -> None:
    known = tokens(jwt_issuer="https://login.example.com")
    assert (await known.authenticate(signed(iss="https://login.example.com"))).subject == "user:olga"
    with pytest.raises(NotAuthenticated):
        await known.authenticate(signed(iss=iss))


async def test_clocks_may_differ_by_half_a_minute_and_what_is_over_is_over() -> None:
    now = time.time()
    for ahead in (1, 5, 25):
        await tokens().authenticate(signed(iat=now + ahead, nbf=now + ahead))
    for wrong in ({"iat": now + 60}, {"nbf": now + 60}, {"exp": now - 1}):
        with pytest.raises(NotAuthenticated):
            await tokens().authenticate(signed(**wrong))
    with pytest.raises(NotAuthenticated):
        await tokens(jwt_leeway=0).authenticate(signed(nbf=now + 5))


async def test_claims_are_found_under_the_names_of_the_issuer() -> None:
    known = tokens(
        jwt_claims={
            "sub": "oid",
            "tenant": "https://shop.example.com/org",
            "scope": "realm_access.roles",
            "channels": "app.chat.channels",
        }
    )
    said = {
        "sub": "x",
        "oid": "olga",
        "https://shop.example.com/org": "acme",
        "realm_access": {"roles": ["read", "uma"]},
        "app": {"chat": {"channels": ["b-*"]}},
        "channels": None,
        "tenant": "rival",
        "scope": "admin",
    }
    principal = await known.authenticate(signed(**said))
    assert (principal.subject, principal.tenant, principal.channels) == ("user:olga", "acme", ("b-*",))
    assert principal.scopes == {"read"}
    for name in ("oid", "https://shop.example.com/org", "realm_access", "app"):
        with pytest.raises(NotAuthenticated, match="lacks"):
            await known.authenticate(signed(**{**said, name: None}))


async def test_a_wrong_claim_map_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="jwt_claims"):
        Settings.load(jwt_claims={"user": "sub"})


async def test_a_token_says_since_when_it_counts() -> None:
    issued = await tokens().authenticate(signed(iat=time.time() - 40))
    assert issued.since == pytest.approx(time.time() - 40 - LEEWAY, abs=2), "by the clock that is furthest ahead"
    assert (await tokens().authenticate(signed())).since == 0.0


def test_secrets_of_this_test_are_random() -> None:
    assert shared_secret(secrets.token_urlsafe(32))
