"""Make a release: `python scripts/release.py VERSION` from a clean tree.

It says what is wrong before it changes anything. It puts the version into pyproject.toml and clients/js, moves what
is unreleased in CHANGELOG.md under it, builds wheel and source archive twice and compares them, answers a question from
the wheel in empty environments, and writes the bill of materials and the sums beside them into `dist/`. Nothing is
committed, tagged or uploaded: a tag `vVERSION` does that, in `.github/workflows/release.yml`, which signs its files.

`--check`: only say whether tree, changelog and version agree, as the workflow asks.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dev  # noqa: E402 - after the path

DIST = ROOT / "dist"
VERSIONED = [ROOT / name for name in ("pyproject.toml", "clients/js/package.json", "CHANGELOG.md")]
"""What names the version."""
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("version")
    options.add_argument("--check", action="store_true")
    asked = options.parse_args()
    if asked.check:
        return told(disagreements(asked.version))
    if wrong := obstacles(asked.version):
        return told(wrong)
    dev.uv()  # fetched before anything is changed
    with unchanged_by_failure():
        put_version(asked.version)
        files = build()
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (DIST / "SHA256SUMS").write_text(sums)
    print(sums + f"release: look at the changes, commit them, and tag v{asked.version}")
    return 0


@contextlib.contextmanager
def unchanged_by_failure() -> Iterator[None]:
    """A release that could not be made leaves the tree as it was, so that the next try begins with a clean one."""
    before = {path: path.read_text() for path in VERSIONED}
    try:
        yield
    except BaseException:
        for path, text in before.items():
            path.write_text(text)
        raise


def told(wrong: list[str]) -> int:
    for sentence in wrong:
        print(f"release: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def obstacles(version: str) -> list[str]:
    """Why this version cannot be made now."""
    wrong = []
    if not VERSION.fullmatch(version):
        wrong.append(f"{version!r} is no version: write it like 1.2.3, or 1.2.3rc1")
    if git("status", "--porcelain"):
        wrong.append("the tree is not clean: commit or stash first")
    if git("tag", "--list", f"v{version}"):
        wrong.append(f"there is a tag v{version} already")
    if not section(changelog(), "Unreleased").strip():
        wrong.append("nothing stands under Unreleased in CHANGELOG.md")
    return wrong


def disagreements(version: str) -> list[str]:
    """Where the tree says something else than this version."""
    wrong = [f"{name} says {told}" for name, told in versions().items() if told != version_in(name, version)]
    if not section(changelog(), version).strip():
        wrong.append(f"CHANGELOG.md has nothing under {version}")
    return wrong


def versions() -> dict[str, str]:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    package = json.loads((ROOT / "clients" / "js" / "package.json").read_text())
    return {"pyproject.toml": found[1] if found else "", "clients/js/package.json": package["version"]}


def version_in(name: str, version: str) -> str:
    """As the index of this file writes it: npm knows semantic versions alone, 1.2.3-rc.1 for 1.2.3rc1."""
    if not name.endswith("package.json"):
        return version
    kinds = {"a": "alpha", "b": "beta", "rc": "rc"}
    return re.sub(r"(a|b|rc)(\d+)$", lambda found: f"-{kinds[found[1]]}.{found[2]}", version)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def section(text: str, title: str) -> str:
    """What stands under `## TITLE`, or `## TITLE (date)`, without the heading."""
    found = re.search(rf"^## {re.escape(title)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def with_release(text: str, version: str, date: str) -> str:
    """The changelog with what was unreleased under this version."""
    return text.replace("## Unreleased\n", f"## Unreleased\n\n## {version} ({date})\n", 1)


def put_version(version: str) -> None:
    for path, form in (
        (ROOT / "pyproject.toml", 'version = "{}"'),
        (ROOT / "clients/js/package.json", '"version": "{}"'),
    ):
        name = str(path.relative_to(ROOT))
        before, after = form.format(versions()[name]), form.format(version_in(name, version))
        path.write_text(path.read_text().replace(before, after, 1))
    date = time.strftime("%Y-%m-%d", time.gmtime())
    (ROOT / "CHANGELOG.md").write_text(with_release(changelog(), version, date))


def build() -> list[Path]:
    """Wheel and source archive, the same whenever and wherever they are built; tried, and described."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as again:
        for folder in (DIST, Path(again)):
            run(dev.uv(), "build", "--quiet", "--out-dir", str(folder), str(ROOT))
        files = sorted([*DIST.glob("*.whl"), *DIST.glob("*.tar.gz")])
        differ = [file.name for file in files if file.read_bytes() != (Path(again) / file.name).read_bytes()]
    if differ:
        raise SystemExit(f"release: {', '.join(differ)} came out differently the second time")
    run(sys.executable, str(ROOT / "scripts" / "install_trial.py"))
    run(sys.executable, str(ROOT / "dev.py"), "sbom", str(DIST / "sbom.cdx.json"))
    return files


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
