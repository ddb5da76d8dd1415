"""The ledger finds overlaps, doubles and losses exactly, and survives its process."""

from __future__ import annotations

from pathlib import Path

from turnkeep.simulator import Exchange, ExchangeLedger, Prompt
from turnkeep.simulator.exchanges import ExchangeOutcome
from turnkeep.simulator.prompt import PromptEntry
from turnkeep.testing.fake_clock import FakeClock


def book(limit: int | None = None, file: Path | None = None) -> ExchangeLedger:
    return ExchangeLedger(FakeClock(), limit=limit, file=file)


def begin(ledger: ExchangeLedger, thread: str, *texts: str, run: str = "r", tenant: str = "default") -> Exchange:
    exchange = ledger.arrive("responses", "req_1", {})
    labels = {"turnkeep_thread": thread, "turnkeep_run": run, "turnkeep_tenant": tenant, "turnkeep_attempt": "1"}
    ledger.label(exchange, {"metadata": labels, "stream": True})
    ledger.hear(exchange, Prompt(tuple(PromptEntry("user", text) for text in texts)))
    return exchange


def whole(
    ledger: ExchangeLedger, thread: str, *texts: str, run: str = "r", outcome: ExchangeOutcome = "completed"
) -> Exchange:
    exchange = begin(ledger, thread, *texts, run=run)
    ledger.finish(exchange, outcome)
    return exchange


def test_requests_of_one_thread_open_together_overlap() -> None:
    ledger = book()
    first = begin(ledger, "t")
    second = begin(ledger, "t")
    ledger.finish(first, "completed")
    third = begin(ledger, "t")
    assert ledger.overlaps() == [(first, second), (second, third)]


def test_one_after_the_other_is_no_overlap_even_when_the_clock_stands_still() -> None:
    ledger = book()
    for _ in range(3):
        whole(ledger, "t")
    begin(ledger, "other")
    begin(ledger, "t")
    assert ledger.overlaps() == []


def test_equal_thread_names_of_two_tenants_are_two_threads() -> None:
    ledger = book()
    begin(ledger, "t", tenant="a")
    begin(ledger, "t", tenant="b")
    assert ledger.overlaps() == []


def test_a_message_twice_in_one_request_is_found() -> None:
    ledger = book()
    bad = whole(ledger, "t", "a", "b", "a")
    whole(ledger, "t", "a", "c")
    assert ledger.twice_within_a_request() == [(bad, "a")]


def test_lost_messages_are_those_never_answered() -> None:
    ledger = book()
    whole(ledger, "t", "a")
    whole(ledger, "t", "b", outcome="closed_by_client")
    assert ledger.lost_messages(["a", "b", "c"]) == ["b", "c"]
    assert ledger.lost_messages(["a", "b", "c"], outcomes=("completed", "closed_by_client")) == ["c"]


def test_a_message_of_an_answered_turn_counts_as_old() -> None:
    ledger = book()
    exchange = begin(ledger, "t")
    ledger.hear(
        exchange, Prompt((PromptEntry("user", "old"), PromptEntry("assistant", "x"), PromptEntry("user", "new")))
    )
    assert exchange.messages == [("old", False), ("new", True)]
    ledger.finish(exchange, "completed")
    assert ledger.lost_messages(["old", "new"]) == ["old"]


def test_answers_of_two_runs_to_one_message_are_found() -> None:
    ledger = book()
    first, again = whole(ledger, "t", "a", run="1"), whole(ledger, "t", "a", run="2")
    whole(ledger, "t", "b", run="1", outcome="failed")
    whole(ledger, "t", "b", run="2")
    assert ledger.answered_twice() == {"a": [first, again]}


def test_steps_of_one_run_are_one_answer() -> None:
    ledger = book()
    step = begin(ledger, "t", "a", run="1")
    step.calls = ["f"]
    ledger.finish(step, "completed")
    whole(ledger, "t", "a", run="1")
    assert ledger.answered_twice() == {}


def test_the_first_end_counts_and_is_timed() -> None:
    clock = FakeClock()
    ledger = ExchangeLedger(clock)
    exchange = begin(ledger, "t", "a")
    clock.advance(2.5)
    ledger.finish(exchange, "closed_by_client", None)
    clock.advance(1)
    ledger.finish(exchange, "completed")
    assert ledger.closed_by_client == [exchange]
    assert exchange.finished == exchange.arrived + 2.5
    assert ledger.open_count == 0


def test_labels_come_from_headers_where_there_is_no_metadata() -> None:
    ledger = book()
    exchange = ledger.arrive("chat", "req_1", {"x-turnkeep-thread": "thread%20one", "x-client-request-id": "abc"})
    ledger.label(exchange, {"messages": []})
    assert (exchange.thread, exchange.run, exchange.client_request_id) == ("thread one", None, "abc")


def test_a_bounded_ledger_forgets_the_oldest() -> None:
    ledger = book(limit=3)
    for n in range(10):
        whole(ledger, "t", str(n))
    assert [exchange.texts for exchange in ledger] == [["7"], ["8"], ["9"]]


def test_clearing_keeps_what_is_open() -> None:
    ledger = book()
    whole(ledger, "t", "a")
    still = begin(ledger, "t", "b")
    ledger.clear()
    assert list(ledger) == [still]
    assert ledger.open_count == 1


def test_a_killed_process_leaves_its_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = book(file=file)
    whole(ledger, "t", "a", "ünï")
    begin(ledger, "t", "b")
    ledger.close()
    with file.open("ab") as torn:
        torn.write(b'{"what":"finished","n":2,"ord')
    found = ExchangeLedger.load(file, FakeClock())
    assert [(e.n, e.thread, e.outcome, e.new) for e in found] == [
        (1, "t", "completed", ["a", "ünï"]),
        (2, "t", "open", ["b"]),
    ]
    assert found.open_count == 1
    assert found.lost_messages(["a", "b"]) == ["b"]
    assert found.overlaps() == []


def test_the_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    for text in ("a", "b"):
        ledger = book(file=file)
        whole(ledger, "t", text)
        ledger.close()
    assert len(file.read_bytes().splitlines()) == 4
