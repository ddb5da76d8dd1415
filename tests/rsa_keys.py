"""RSA keys, which take a tenth of a second each to make: every worker imports every test file, and few ask for one."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

_KEYS: dict[str, rsa.RSAPrivateKey] = {}


def rsa_key(owner: str = "ours") -> rsa.RSAPrivateKey:
    """The same for the same owner, made when it is first asked for."""
    if owner not in _KEYS:
        _KEYS[owner] = rsa.generate_private_key(65537, 2048)
    return _KEYS[owner]
