"""What lies in `deploy/` is confined, names what exists, and a confined service works."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # ships no types

import dev
from tests.docs.samples import known_variables
from tests.services import free_port
from tests.services.process import eventually
from turnkeep.cli import VERBS

ROOT = Path(__file__).parents[2]
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
PODS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in KUBERNETES if one["kind"] == "Deployment"}


def demand_verb(verb: str, *words: str) -> None:
    command = typer.main.get_command(import_module(VERBS[verb].module).app)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("name", PODS)
def test_a_pod_keeps_the_restricted_level(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_names_verbs_and_settings_that_exist(name: str) -> None:
    [container] = PODS[name]["containers"]
    demand_verb(*container["args"])
    assert {one["name"] for one in container.get("env", ())} <= known_variables()


def test_gateways_are_asked_for_credentials_and_under_a_name_they_answer_to() -> None:
    [container] = PODS["turnkeep-gateway"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["TURNKEEP_AUTH"] == "on"
    for probe in ("readinessProbe", "livenessProbe"):
        [header] = container[probe]["httpGet"]["httpHeaders"]
        assert header["value"] in json.loads(environment["TURNKEEP_HOSTS"])


def test_the_unit_is_confined() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names of directives are as they are
    unit.read(ROOT / "deploy/turnkeep.service")
    service = unit["Service"]
    demand_verb(*service["ExecStart"].split()[1:])
    for name in ("NoNewPrivileges", "DynamicUser", "PrivateTmp", "PrivateDevices", "RestrictSUIDSGID", "ProtectHome"):
        assert service[name] == "yes"
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"], service["UMask"]) == ("strict", "", "0077")
    assert int(service["LimitNOFILE"]) >= 65536


def test_the_bill_of_materials_has_every_package_that_runs() -> None:
    told = subprocess.run([sys.executable, "scripts/sbom.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    bill = json.loads(told.stdout)
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {(one["name"], one["version"]) for one in bill["components"]} == locked
    assert all(one["hashes"] and one["purl"].startswith("pkg:pypi/") for one in bill["components"])
    assert "sbom" in dev.COMMANDS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")
def test_a_service_lives_with_a_read_only_root_and_no_rights(bubblewrap: str, tmp_path: Path) -> None:
    """As the image, the unit and the pod run it: a number for a user, nothing to write but its data."""
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    os.chown(data, os.getuid(), os.getgid())
    words = [bubblewrap, "--die-with-parent", "--unshare-user", "--uid", "10001", "--gid", "10001", "--cap-drop", "ALL"]
    words += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    words += ["--ro-bind", str(ROOT), str(ROOT), "--bind", str(data), "/mnt", "--chdir", "/mnt", "--clearenv"]
    words += ["--setenv", "PATH", os.environ["PATH"], "--setenv", "PYTHONDONTWRITEBYTECODE", "1"]
    words += ["--", sys.executable, "-m", "turnkeep", "serve", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(words, stdout=log, stderr=log)
    try:

        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(is_ready, 60.0, "the service to be ready", lambda: None if service.poll() is None else "it ended")
        assert {path.name for path in data.rglob("*.db")} == {"turnkeep.db"}
    finally:
        service.kill()
        service.wait()
