"""Installed as people do: a queue in somebody else's program needs eight packages, a server says what it misses."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def needs(distribution: str, extra: str = "") -> list[str]:
    requirements = map(Requirement, importlib.metadata.requires(distribution) or ())
    return [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the core needs, and what that needs, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    wanted, packages = needs("turnkeep"), dict[str, None]()
    while wanted:
        name = wanted.pop()
        if name not in packages:
            packages[name] = None
            wanted += needs(name)
    for name in packages:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(distribution.locate_file(top)))
    (folder / "turnkeep").symlink_to(ROOT / "src" / "turnkeep")
    return folder


def ran(bare: Path, program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", program]
    environment = {"PYTHONPATH": str(bare), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_the_core_needs_at_most_eight_packages() -> None:
    assert len(needs("turnkeep")) <= 8
    assert {"websockets", "typer", "prometheus-client", "tiktoken"} & {*needs("turnkeep")} == set()


def test_a_queue_answers_with_nothing_but_the_core(bare: Path, tmp_path: Path) -> None:
    trial = script("install_trial")
    for program in (trial.ANSWER, trial.TOOL):
        done = ran(bare, program, tmp_path)
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_the_oldest_versions_are_asked_for_by_name() -> None:
    """Of what others ask for, uv takes the newest."""
    asked = script("install_trial").requirements(["server"])
    assert {*needs("turnkeep")} <= {Requirement(one).name for one in asked}
    assert {"websockets", "tiktoken", "typer"} <= {Requirement(one).name for one in asked}
    assert all(Requirement(one).specifier for one in asked)


def test_what_is_not_installed_is_said_with_its_remedy(bare: Path, tmp_path: Path) -> None:
    program = """
import turnkeep, sys
print(turnkeep.count_tokens("hello", "gpt-4o") > 0, turnkeep.cost_of(turnkeep.Usage(input_tokens=5), "gpt-4o"))
try:
    import turnkeep.asgi
except ImportError as error:
    print(error)
from turnkeep.cli import main
print(main(["doctor"]))
"""
    done = ran(bare, program, tmp_path)
    assert done.stdout.splitlines() == [
        "True None",
        "the doors need the parts of a server: pip install 'turnkeep[server]'",
        "2",
    ], done.stderr
    assert done.stderr == "turnkeep: typer is not installed: pip install 'turnkeep[server]'\n"


def test_the_first_commands_of_the_documents_are_there() -> None:
    assert (ROOT / "requirements.txt").read_text().splitlines()[-1] == ".[server,redis,rabbitmq]"
    done = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert "--test-message" in done.stdout


def test_a_release_needs_a_version_that_tree_and_changelog_say() -> None:
    release = script("release")
    told = release.versions()
    assert len({*told.values()}) == 1
    text = "# Changelog\n\n## Unreleased\n\n### Added\n\n- One.\n\n## 0.9.0 (2026-01-01)\n\n- Zero.\n"
    moved = release.with_release(text, "1.0.0", "2026-12-01")
    assert release.section(moved, "Unreleased").strip() == ""
    assert release.section(moved, "1.0.0").split() == ["###", "Added", "-", "One."]
    assert release.section(moved, "0.9.0").strip() == "- Zero."
    kinds = re.findall(r"^### (\w+)$", release.section(release.changelog(), "Unreleased"), re.M)
    assert kinds == [
        kind for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security") if kind in kinds
    ]
    assert "is no version" in " ".join(release.obstacles("1.0"))
    assert release.disagreements("9.9.9")


@pytest.mark.parametrize(
    ("version", "of_npm"),
    [("1.2.0a1", "1.2.0-alpha.1"), ("1.2.0b2", "1.2.0-beta.2"), ("1.2.0rc13", "1.2.0-rc.13"), ("1.2.0", "1.2.0")],
)
def test_a_version_has_the_form_that_each_index_demands(
    version: str, of_npm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = script("release")
    for name in ("pyproject.toml", "CHANGELOG.md", "clients/js/package.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(release, "ROOT", tmp_path)
    release.put_version(version)
    assert release.versions() == {"pyproject.toml": version, "clients/js/package.json": of_npm}
    assert release.disagreements(version) == []
    assert release.disagreements("1.2.1rc1")


def test_what_npm_verifies_of_a_package_is_in_it() -> None:
    """It refuses a package whose provenance names another repository than the package does."""
    package = json.loads((ROOT / "clients/js/package.json").read_text())
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    assert package["repository"]["url"] == f"git+{source}.git"
    assert (ROOT / package["repository"]["directory"] / "package.json").exists()
    assert (ROOT / "clients/js/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_workflow_of_a_release_calls_what_there_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    jobs = workflow["jobs"]
    typed = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    files = re.findall(r"(?:python3 |sudo -E )(\S+)", typed.replace("python3 -m pip", ""))
    assert {"scripts/release.py", ".ci/run", "scripts/install_trial.py", "dev.py"} <= {*files}
    assert all((ROOT / file).exists() for file in files)
    assert {name for job in jobs.values() for name in as_list(job.get("needs", []))} <= {*jobs}


def test_a_release_that_fails_leaves_the_tree_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = script("release")
    file = tmp_path / "CHANGELOG.md"
    file.write_text("before")
    monkeypatch.setattr(release, "VERSIONED", [file])

    def fail() -> None:
        with release.unchanged_by_failure():
            file.write_text("after")
            raise SystemExit("could not be built")

    with pytest.raises(SystemExit):
        fail()
    assert file.read_text() == "before"


@pytest.mark.only_in_prove  # reason: builds and installs from the package index
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [(), ("oldest",), ("sdist",), ("server",)], ids="-".join)
def test_it_installs_into_an_empty_environment_on_every_python(
    options: tuple[str, ...], tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    trial = script("install_trial")
    archive = trial.build(tmp_path, sdist="sdist" in options)
    extras = [extra for extra in options if extra == "server"]
    for number, python in enumerate(trial.pythons()):
        told = trial.tried(tmp_path / f"env{number}", archive, python, extras=extras, oldest="oldest" in options)
        proof(f"install {' '.join(options)}", told.line())
        assert extras or (told.packages <= 30 and told.megabytes <= 60)
