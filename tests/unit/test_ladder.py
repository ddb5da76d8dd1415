"""The ladder of measurements: what its figures say, and when a figure has become worse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import run

from bench.ladder import baseline, profile, report
from bench.ladder.callers import end_of_frame, masked
from bench.ladder.figures import Figure, Target, percentile, ratio, table
from bench.ladder.groups import GROUPS
from bench.ladder.peers import TOKEN
from bench.ladder.prepared_frames import frame, unmasked
from bench.ladder.rows import PEERS, PROGRAMS, Program, chosen
from bench.ladder.sizes import Size
from bench.ladder.stack import cpu_of, free_port, rss_of

ROOT = Path(__file__).parents[2]


def figure(*samples: float, name: str = "a", is_checked: bool = True) -> Figure:
    return Figure(3, name, "x", samples, Target(4, 2), is_checked=is_checked)


def test_a_ratio_is_taken_round_by_round_and_its_parts_are_medians() -> None:
    ours = [{"gateway": 10.0, "worker": 20.0}, {"gateway": 30.0, "worker": 60.0}, {"gateway": 20.0, "worker": 40.0}]
    floor = [{"pump": 10.0}, {"pump": 30.0}, {"pump": 30.0}]
    found = ratio(3, "a token", ours, floor)
    assert found.samples == (3.0, 3.0, 2.0)
    assert (found.value, found.low, found.high) == (3.0, 2.0, 3.0)
    assert found.parts == {"gateway µs": 20.0, "worker µs": 40.0, "floor µs": 30.0}


@pytest.mark.parametrize(
    ("samples", "more_is_better", "is_met"),
    [((4.0,), False, True), ((4.1,), False, False), ((3.9,), True, False), ((9.0, 1.0, 5.0), False, False)],
)
def test_a_target_is_met_by_the_median(samples: tuple[float, ...], more_is_better: bool, is_met: bool) -> None:
    assert Figure(1, "a", "x", samples, Target(4, 2, more_is_better)).is_met is is_met


def test_a_table_names_what_was_missed() -> None:
    lines = table([figure(9.0), Figure(8, "b", "MB", (1.0,), None, {"worker MB": 1.0})]).splitlines()
    assert lines[1].endswith("MISSED")
    assert not lines[2].endswith(("met", "MISSED"))
    assert lines[3].strip() == "worker MB 1"


@pytest.mark.parametrize(
    ("best", "is_worse"), [((1.14, 5.0), False), ((1.16, 5.0), True), ((0.2,), False)], ids=["close", "worse", "better"]
)
def test_a_figure_is_worse_when_its_best_round_is_by_more_than_the_bound(
    best: tuple[float, ...], is_worse: bool
) -> None:
    worse = baseline.regressions([figure(*best)], {"a": 1.0})
    assert [one.name for one in worse] == (["a"] if is_worse else [])


def test_of_a_ratio_the_round_with_the_slowest_floor_is_not_the_best() -> None:
    found = ratio(3, "a", [{"ours": 10.0}, {"ours": 12.0}], [{"floor": 2.0}, {"floor": 6.0}], is_checked=True)
    assert found.low == 2.0
    assert found.best == 5.0
    both = baseline.best_of([found], [ratio(3, "a", [{"ours": 8.0}], [{"floor": 4.0}])])
    assert both[0].best == 4.0


def test_only_what_is_robust_and_known_is_compared() -> None:
    assert baseline.regressions([figure(9.0, is_checked=False), figure(9.0, name="new")], {"a": 1.0}) == []


def test_of_two_measurements_the_better_figures_count() -> None:
    best = baseline.best_of([figure(3.0), figure(1.0, name="b")], [figure(2.0), figure(5.0, name="b")])
    assert [(one.name, one.best) for one in best] == [("a", 2.0), ("b", 1.0)]


def test_what_is_kept_is_read_again_and_other_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "FILE", tmp_path / "baseline.json")
    baseline.write([figure(3.0, 2.0)])
    baseline.write([figure(7.0, name="b"), figure(1.0, name="c", is_checked=False)])
    assert baseline.read() == {"a": 2.0, "b": 7.0}


def test_a_row_is_chosen_by_name_and_by_number() -> None:
    assert [one.name for one in chosen(["tokens"])] == ["tokens"]
    assert {one.name for one in chosen(["8"])} == {"tokens", "start"}
    assert chosen([]) == list(PROGRAMS)
    with pytest.raises(LookupError, match="frob"):
        chosen(["tokens", "frob"])


def test_every_program_can_be_imported_and_has_rows() -> None:
    assert all(callable(one.measure) and one.rows for one in PROGRAMS)


@pytest.mark.parametrize("size", [0, 5, 125, 126, 70_000])
def test_callers_and_floors_speak_the_same_frames(size: int) -> None:
    text = b"x" * size
    if size < 65_536:
        assert unmasked(masked(text)) == text
        whole = frame(text)
        assert end_of_frame(whole + b"more", 0) == (len(whole) - size, len(whole))
        assert end_of_frame(whole[:-1], 0) is None or size == 0


def test_half_a_head_is_no_frame() -> None:
    assert end_of_frame(b"\x81", 0) is None
    assert end_of_frame(b"\x81\x7e\x01", 0) is None


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


@pytest.mark.skipif(sys.platform != "linux", reason="clocks of processes by their number are of Linux")
def test_the_clock_of_another_process_counts_its_cpu() -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        used, weight = cpu_of(busy.pid), rss_of(busy.pid)
        busy.communicate(b"\n")
    assert 0.2 <= used < 5
    assert weight > 3
    assert cpu_of(busy.pid) == 0.0
    assert free_port() > 0


@pytest.mark.slow  # a program that imports every benchmark
@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("--list", 0),
        *(pytest.param(*said, marks=pytest.mark.only_in_prove) for said in (("--help", 0), ("frobnicate", 2))),
    ],
)
def test_the_command_says_what_there_is(argument: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "bench/run.py", argument], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == code
    assert "tokens" in done.stdout + done.stderr


FIGURES = [
    Figure(1, "added to the first token", "ms", (3.0, 2.0, 4.0), Target(2, 1)),
    ratio(3, "CPU of a token / byte pump, embedded", [{"service": 90.0}], [{"pump": 15.0}], target=Target(4, 2)),
    Figure(7, "tokens/s of a <gateway's> core", "/s", (30_000.0,), Target(25_000, 50_000, more_is_better=True)),
    Figure(8, "an empty process", "MB", (66.0,)),
]


def test_the_page_tells_every_figure_its_machine_and_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(report, "IMAGES", tmp_path / "images")
    data = {"machine": report.machine(), "load": 0.5, "failures": [], "figures": [one.to_json() for one in FIGURES]}
    written = report.write(data)
    page = (tmp_path / "performance.md").read_text()
    assert all(one.name in page for one in FIGURES)
    assert "* row 1, added to the first token: 3 ms, must 2" in page
    assert "* row 7" not in page
    assert "* A token from the model to its reader: **6 times** the CPU" in page
    assert "## The life of a message" not in page
    assert str(report.machine()["Python"]) in page
    assert {path.name for path in written} == {"performance.md", "performance-rows.svg", "performance-token.svg"}
    assert max(map(len, (line for line in page.splitlines() if not line.startswith(("|", "* ", "!"))))) <= 100
    for path in written:
        if path.suffix == ".svg":
            drawing = ElementTree.fromstring(path.read_text())
            assert drawing.tag.endswith("svg")
            assert f"images/{path.name}" in page


def test_every_row_has_its_place_on_the_page() -> None:
    measured = {row for program in PROGRAMS for row in program.rows}
    assert sorted(row for group in GROUPS for row in group.rows) == sorted(measured)


def test_every_profile_explains_a_row_and_has_a_title_of_its_own() -> None:
    measured = {row for program in PROGRAMS for row in program.rows}
    assert {row for one in profile.SUBJECTS for row in one.rows} <= measured
    assert len({one.title for one in profile.SUBJECTS}) == len(profile.SUBJECTS)


def test_runs_are_joined_and_the_later_figure_stands() -> None:
    first, second = (
        {"load": load, "failures": failures, "machine": {}, "figures": [one.to_json() for one in figures]}
        for load, failures, figures in ((2.0, ["growth"], [figure(3.0), FIGURES[0]]), (1.0, [], [figure(2.0)]))
    )
    both = report.joined([first, second])
    assert [(one["row"], one["value"]) for one in both["figures"]] == [(1, 3.0), (3, 2.0)]
    assert (both["load"], both["failures"]) == (2.0, ["growth"])


def test_peers_stand_in_a_table_of_their_own_and_miss_nothing() -> None:
    other = ratio(3, "peers: CPU of a token / byte pump, LiteLLM proxy", [{"litellm": 900.0}], [{"pump": 15.0}])
    figures = [one.to_json() for one in (*FIGURES, other)]
    page = report.page({"machine": {}, "load": 0.5, "failures": [], "figures": figures})
    before, _, others = page.partition("## Beside others")
    assert "LiteLLM" not in before
    assert "| CPU of a token / byte pump, LiteLLM proxy | 60 x |" in others
    assert set(report.charts(figures)) == {"rows", "token", "peers"}


def test_what_a_run_has_found_is_written_after_each_program_and_one_that_fails_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, seen = tmp_path / "figures.json", list[int]()

    def program(name: str, measure: Callable[[Size], Coroutine[Any, Any, list[Figure]]]) -> Program:
        monkeypatch.setitem(sys.modules, f"bench.ladder.{name}", SimpleNamespace(measure=measure))
        return Program(name, (3,), "")

    async def works(_: Size) -> list[Figure]:
        return [figure(3.0)]

    async def fails(_: Size) -> list[Figure]:
        seen.append(len(json.loads(place.read_text())["figures"]))
        raise RuntimeError("no server")

    programs = [program("first", works), program("second", fails), program("third", works)]
    outcome = run.measure(programs, Size(is_small=True), str(place))
    assert seen == [1]
    assert outcome.failures == ["second"]
    assert len(outcome.figures) == 2


def test_a_page_of_one_row_draws_what_it_can() -> None:
    assert set(report.charts([FIGURES[3].to_json()])) == set()
    assert set(report.charts([FIGURES[0].to_json()])) == {"rows"}


def test_what_is_not_good_is_said_and_what_failed_too() -> None:
    figures = [one.to_json() for one in FIGURES]
    assert report.complaints(figures[2:], []) == "All 1 figures of this run that have a target reach what they must."
    said = report.complaints(figures, ["growth"])
    assert "not measured, because its program failed: growth" in said
    assert "What would be needed: " in said


def test_peers_are_measured_when_they_are_asked_for_alone() -> None:
    assert PEERS not in chosen([])
    assert chosen(["peers"]) == [PEERS]
    assert callable(PEERS.measure)


def test_tokens_are_counted_in_the_events_of_every_peer() -> None:
    said = (
        b'data: {"choices":[{"delta":{"content":" the"}}]}',
        b'data: [{"content": "quick", "type": "AIMessageChunk"}]',
    )
    nothing = (b'data: {"choices":[{"delta":{"content":""}}]}', b"data: [DONE]", b'data: [{"content": "", "id": 1}]')
    assert [bool(TOKEN.search(event)) for event in (*said, *nothing)] == [True, True, False, False, False]


def test_a_profile_is_folded_by_the_innermost_frame() -> None:
    stacks = """
MainThread;run (asyncio/runners.py:118);_publish (/x/src/turnkeep/runs/announcer.py:9) 6
MainThread;run (asyncio/runners.py:118);write (/x/lib/python3.11/site-packages/uvicorn/server.py:3) 3
MainThread;_run_once (asyncio/base_events.py:1) 1
no frame 5
"""
    found = profile.fold(stacks)
    assert found.packages == {"turnkeep.runs": 60.0, "uvicorn": 30.0, "asyncio": 10.0}
    assert found.functions["runs/announcer.py _publish"] == 60.0
    assert "| `turnkeep.runs` | 60 % | `runs/announcer.py _publish` | 60 % |" in report.profile_sections(
        [found.to_json()]
    )
    assert report.profile_sections([]) == "None was taken in this run.\n"


def test_what_a_dataclass_generates_counts_for_its_caller() -> None:
    found = profile.fold("MainThread;accept (/x/src/turnkeep/store/thread.py:9);__init__ (<string>:3) 4")
    assert found.functions == {"store/thread.py accept": 100.0}


def test_what_scripts_cost_beside_their_commands_is_lua() -> None:
    stats = {"cmdstat_evalsha": {"calls": 30, "usec": 900}, "cmdstat_hset": {"calls": 60, "usec": 300}}
    link = cast(Any, SimpleNamespace(info=lambda _: stats))
    assert list(profile.commands(link, 10).values()) == [(3.0, 60.0), (6.0, 30.0)]
