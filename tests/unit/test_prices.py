"""Every request has the right cost or none: checked against published prices, worked out by hand."""

from __future__ import annotations

import json
import socket
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.errors import ConfigurationError
from turnkeep.pricing import Price, PriceBook
from turnkeep.usage import Usage

DATA = Path(__file__).parent.parent / "data"
OWN = DATA / "prices_own.toml"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
CASES: list[dict[str, Any]] = tomllib.loads((DATA / "price_cases.toml").read_text(), parse_float=Decimal)["case"]


def named(case: dict[str, Any]) -> str:
    return f"{case['model']}-{case.get('tier', 'standard')}-{case['why']}".replace(" ", "_")


def book(case: dict[str, Any]) -> PriceBook:
    return PriceBook(OWN if case.get("own") else None)


def used(case: dict[str, Any]) -> Usage:
    return Usage(requests=1, **{f"{kind}_tokens": count for kind, count in case["tokens"].items()})


def known(price: Price | None) -> Price:
    assert price is not None
    return price


@each_row("case", CASES, ids=named)
def test_a_request_costs_what_was_worked_out_by_hand(case: dict[str, Any]) -> None:
    priced = book(case).cost(used(case), case["model"], case.get("tier"), NOON)
    if "nano" in case:
        assert (priced.cost_nano, priced.unpriced) == (case["nano"], 0)
    else:
        assert priced.unpriced == 1
        assert priced.cost is None


@each_row("case", [case for case in CASES if "published" in case], ids=named)
def test_the_price_shown_is_the_published_one(case: dict[str, Any]) -> None:
    price = known(book(case).price(case["model"], case.get("tier"), NOON))
    rates = price.rates_for(case["tokens"].get("input", 0))
    shown = {kind: getattr(rates, kind) for kind in case["published"]}
    assert shown == case["published"]


def test_there_are_fifty_hand_made_cases_of_every_kind() -> None:
    assert len(CASES) >= 50
    for kind in ("cached", "cache_write", "reasoning"):
        assert any(case["tokens"].get(kind) for case in CASES)
    for kind in ("own", "tier"):
        assert any(case.get(kind) for case in CASES)
    assert any("nano" not in case for case in CASES)


def test_nothing_is_priced_zero_for_lack_of_a_price() -> None:
    priced = [PriceBook().cost(used(case), case["model"], case.get("tier"), NOON) for case in CASES]
    assert all(usage.cost_nano > 0 or usage.unpriced for usage in priced)


def test_a_sum_with_one_unknown_cost_is_unknown() -> None:
    prices = PriceBook()
    total = prices.cost(Usage(1, 10, output_tokens=1), "gpt-6-luna", at=NOON)
    assert total.cost == pytest.approx(0.0000015)
    total += prices.cost(Usage(1, 10, output_tokens=1), "nobody-s-model", at=NOON)
    assert total.cost is None
    assert (total.cost_nano, total.unpriced) == (1_500, 1)


def test_no_request_costs_nothing() -> None:
    assert PriceBook().cost(Usage(), "nobody-s-model", at=NOON) == Usage()


def test_pricing_again_replaces_the_cost() -> None:
    unknown = PriceBook().cost(Usage(1, 1000), "house-7b", at=NOON)
    assert unknown.unpriced == 1
    assert PriceBook(OWN).cost(unknown, "house-7b", at=NOON) == Usage(1, 1000, cost_nano=500_000)


def test_more_cached_than_sent_is_never_charged_below_zero() -> None:
    odd = Usage(1, input_tokens=10, cached_tokens=50, cache_write_tokens=50, output_tokens=1, reasoning_tokens=9)
    assert PriceBook().cost(odd, "gpt-6-luna", at=NOON).cost_nano == 10 * 10 + 1 * 500


def test_a_price_counts_from_its_date() -> None:
    before = datetime(2026, 8, 20, 12, tzinfo=UTC).timestamp()
    prices = PriceBook()
    assert known(prices.price("gpt-5.6-sol", at=before)).rates.output == 30
    assert known(prices.price("gpt-5.6-sol", at=NOON)).rates.output == 20


def test_a_tier_counts_from_its_date_and_is_unknown_before() -> None:
    before = datetime(2026, 10, 11, 12, tzinfo=UTC).timestamp()
    prices = PriceBook()
    assert prices.price("gpt-6-luna", "flex", before) is None
    assert prices.price("gpt-6-luna", "flex", NOON) is not None


def test_without_a_moment_the_clock_counts() -> None:
    class Stopped:
        def now(self) -> float:
            return datetime(2026, 8, 20, 12, tzinfo=UTC).timestamp()

        async def sleep(self, seconds: float) -> None:
            raise AssertionError(seconds)

    assert known(PriceBook(clock=Stopped()).price("gpt-5.6-sol")).rates.output == 30


def test_the_server_decides_whose_prices_count() -> None:
    name = "deepseek-chat"
    assert PriceBook().price(name, at=NOON) is None
    assert PriceBook(base_url="https://api.deepseek.com/v1").price(name, at=NOON) is not None
    assert PriceBook(base_url="https://api.deepseek.com/v1").price("gpt-4o", at=NOON) is None


@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:9999/v1", "https://gateway.example/v1"])
def test_an_address_that_is_nobodys_counts_as_the_usual_provider(base_url: str | None) -> None:
    assert known(PriceBook(base_url=base_url).price("gpt-4o", at=NOON)).rates.input == Decimal("2.5")


def test_the_arithmetic_agrees_with_that_of_the_tables_own_library() -> None:
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    [openai] = [provider for provider in get_snapshot().providers if provider.id == "openai"]
    prices, compared = PriceBook(), 0
    for model in openai.models:
        for length in (1_000, 500_000):
            ours = prices.cost(Usage(1, length, 300, 200, 77, 50), model.id, at=NOON)
            if ours.unpriced:
                continue
            theirs = genai_prices.calc_price(
                genai_prices.Usage(
                    input_tokens=length, cache_read_tokens=300, cache_write_tokens=200, output_tokens=77
                ),
                model.id,
                provider_id="openai",
                genai_request_timestamp=datetime.fromtimestamp(NOON, UTC),
            )
            assert abs(ours.cost_nano - theirs.total_price * 1_000_000_000) <= Decimal("0.5"), model.id
            compared += 1
    assert compared > 100


def test_the_network_is_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert PriceBook().price("gpt-6-luna", at=NOON) is not None


async def test_the_tables_can_be_read_ahead_of_time() -> None:
    prices = PriceBook()
    await prices.load()
    assert prices.price("gpt-6-luna", at=NOON) is not None


# ---------------------------------------------------------------- a person's own prices


def test_the_own_file_is_named_as_the_source() -> None:
    assert known(PriceBook(OWN).price("house-7b")).source == "prices_own.toml"
    assert known(PriceBook(OWN).price("gpt-6-luna", at=NOON)).source.startswith("genai-prices ")


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    table = tomllib.loads(OWN.read_text())
    path.write_text(json.dumps(table))
    for name in table["prices"]:
        for tier in (None, "flex", "priority"):
            ours, theirs = PriceBook(path).price(name, tier), PriceBook(OWN).price(name, tier)
            assert (ours and (ours.rates, ours.above)) == (theirs and (theirs.rates, theirs.above))


def test_own_prices_are_exact_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[prices.x]\ninput = 0.1\noutput = 0.30000000000000000000000004\n")
    assert str(known(PriceBook(path).price("x")).rates.output) == "0.30000000000000000000000004"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[prices.x]\ninput = 1\n", "price of x in .*: output: field required"),
        ("[prices.x]\ninput = -1\noutput = 1\n", "price of x in .*: input: input should be greater"),
        ("[prices.x]\ninput = nan\noutput = 1\n", "price of x in .*: input: "),
        ("[prices.x]\ninput = 1\noutput = 1\ncashed = 1\n", "price of x in .*: cashed: extra inputs"),
        ("[price.x]\ninput = 1\noutput = 1\n", "is not understood: price: extra inputs"),
        ("prices = 3\n", "is not understood: prices: "),
        ("[prices\n", "cannot be read: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        PriceBook(path)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PriceBook(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    "base_url", [None, "https://api.anthropic.com/v1", "http://127.0.0.1:8090", "https://api.openai.com/v1"]
)
def test_claude_costs_what_anthropic_asks_wherever_it_is_reached(base_url: str | None) -> None:
    """Two dollars a million in, ten out; a twentieth of the first from the cache, a quarter more into it."""
    usage = Usage(
        requests=1, input_tokens=1_000_000, cached_tokens=600_000, cache_write_tokens=200_000, output_tokens=10_000
    )
    cost = PriceBook(base_url=base_url).cost(usage, "claude-sonnet-5-5", "standard", NOON)
    assert cost.cost == pytest.approx(0.2 * 2 + 0.6 * 0.1 + 0.2 * 2.5 + 0.01 * 10)


def test_a_tier_of_anthropic_without_a_price_is_unknown_and_the_fast_one_has_its_own() -> None:
    prices = PriceBook(base_url="https://api.anthropic.com/v1")
    assert prices.price("claude-opus-5-5", "priority", NOON) is None
    fast, plain = prices.price("claude-opus-5-5", "fast", NOON), prices.price("claude-opus-5-5", None, NOON)
    assert fast is not None
    assert plain is not None
    assert fast.rates.output > plain.rates.output
