"""Write the bill of materials of what runs, as CycloneDX JSON: `python3 dev.py sbom [FILE]`.

It is made of requirements.lock alone, so the same lock file gives the same bill: every package with its version, its
address in the index, and the digests that an installation accepts.
"""

from __future__ import annotations

import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")
_DIGEST = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(lock: str) -> str:
    """The bill of a lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, lock))
    about = Component(name=project["name"], type=ComponentType.APPLICATION, bom_ref="turnkeep")
    bom.metadata.component = about
    parts = list(components(lock))
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(about, parts)
    bom.metadata.timestamp = None  # type: ignore[assignment]  # when it was made says nothing about what it holds
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def components(lock: str) -> Iterator[Component]:
    name, version, digests = "", "", []
    for line in [*lock.splitlines(), ""]:
        if (found := _PACKAGE.match(line)) or not line.strip():
            if name:
                yield _component(name, version, digests)
            name, version, digests = (found[1], found[2], []) if found else ("", "", [])
        digests += _DIGEST.findall(line)


def _component(name: str, version: str, digests: list[str]) -> Component:
    address = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=address,
        bom_ref=str(address),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
    )


if __name__ == "__main__":
    text = bill(LOCK.read_text())
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text + "\n")
    else:
        print(text)
