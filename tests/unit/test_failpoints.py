"""Failpoints: nothing unarmed, exactly what was asked for when armed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from turnkeep import failpoints
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings


def test_nothing_happens_unless_a_point_is_armed() -> None:
    failpoints.arm({})
    for point in failpoints.POINTS:
        failpoints.reach(point)


def test_a_point_acts_as_often_as_it_was_asked_to() -> None:
    acts: Counter[str] = Counter()
    failpoints.arm({"midstream": 0.25, "final": 1.0}, act=lambda point: acts.update([point]), seed=1)
    try:
        for _ in range(1000):
            for point in failpoints.POINTS:
                failpoints.reach(point)
    finally:
        failpoints.arm({})

    assert set(acts) == {"midstream", "final"}
    assert acts["final"] == 1000
    assert 200 < acts["midstream"] < 300


def test_an_armed_point_kills_the_process_at_once() -> None:
    program = """
from turnkeep import failpoints
failpoints.arm({"final": 1.0})
try:
    failpoints.reach("final")
finally:
    print("nobody may say this")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == -9
    assert ended.stdout == ""


@pytest.mark.parametrize("wrong", ["nowhere:0.1", "final", "final:often"])
def test_a_wrong_failpoint_is_told_as_a_wrong_setting(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="failpoint"):
        Settings.load(failpoints=wrong)


def test_failpoints_are_read_from_their_setting() -> None:
    settings = Settings.load(failpoints="claimed:0.01, midstream:0.5")

    assert failpoints.read_points(settings.failpoints) == {"claimed": 0.01, "midstream": 0.5}
