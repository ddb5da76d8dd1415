"""What is known of models is dated data, and names are found as people write them."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.rows import each_row
from turnkeep.errors import ConfigurationError
from turnkeep.pricing import Catalog, ModelFacts, PriceBook

TODAY = date(2026, 11, 20)
CATALOG = Catalog.load()


def known(name: str) -> ModelFacts:
    facts = CATALOG.model(name)
    assert facts is not None
    return facts


def test_the_default_is_known_alive_and_priced() -> None:
    facts = known(CATALOG.default)
    assert facts.name == "gpt-6-luna"
    assert (facts.context, facts.output) == (1_050_000, 128_000)
    assert CATALOG.check(CATALOG.default, TODAY) == []
    assert PriceBook().price(CATALOG.default) is not None


@each_row("name", CATALOG.names)
def test_every_model_listed_has_limits_a_price_and_a_living_successor(name: str) -> None:
    facts = known(name)
    assert facts.context is not None
    assert facts.output is not None
    assert facts.output <= facts.context
    assert PriceBook().price(name) is not None
    assert facts.effort is None or facts.effort in facts.efforts
    if facts.successor:
        assert facts.ends is not None
        assert CATALOG.model(facts.successor) is not None
        assert not CATALOG.is_gone(facts.successor, max(facts.ends, TODAY))


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-6-luna-2026-09-22", "gpt-6-luna"),
        ("gpt-5.6", "gpt-5.6-sol"),
        ("gpt-4-0613", "gpt-4"),
        ("openai/gpt-4o", "gpt-4o"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::AbC123", "gpt-4.1-mini"),
    ],
)
def test_snapshots_aliases_fine_tunes_and_vendor_names_are_found(name: str, listed: str) -> None:
    assert known(name).name == listed


@pytest.mark.parametrize("name", ["gpt-4o-audio-preview", "gpt-4o-minimal", "gpt-6", "llama-9", "", "ft:"])
def test_a_longer_or_foreign_name_is_not_taken_for_a_model(name: str) -> None:
    assert CATALOG.model(name) is None


def test_a_model_that_ends_is_warned_about_with_its_successor() -> None:
    [warning] = CATALOG.check("gpt-4o-mini", TODAY)
    assert (warning.kind, warning.use) == ("ends", "gpt-6-luna")
    assert str(warning) == "gpt-4o-mini ends on 2027-01-14; successor gpt-6-luna"


def test_a_model_is_gone_from_the_day_of_its_end() -> None:
    end = known("gpt-4o-mini").ends
    assert end is not None
    assert not CATALOG.is_gone("gpt-4o-mini", end - timedelta(days=1))
    assert CATALOG.is_gone("gpt-4o-mini", end)
    [warning] = CATALOG.check("gpt-4o-mini", end)
    assert warning.kind == "gone"
    assert str(warning) == "gpt-4o-mini ended on 2027-01-14: requests fail; use gpt-6-luna"


def test_a_warning_speaks_of_the_name_that_was_given() -> None:
    assert "gpt-4o-2024-08-06 ends on" in str(CATALOG.check("gpt-4o-2024-08-06", TODAY)[0])


def test_a_slip_of_the_pen_is_pointed_out() -> None:
    [warning] = CATALOG.check("gpt-6-lunna", TODAY)
    assert (warning.kind, warning.use) == ("misspelt", "gpt-6-luna")


@pytest.mark.parametrize(
    "name", ["llama-9-70b", "qwen4-max", "gpt-oss-20b", "gpt-5.5-pro", "mistral/large", "my-model"]
)
def test_models_of_other_makes_are_no_slip(name: str) -> None:
    assert CATALOG.check(name, TODAY) == []


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("gpt-4o-mini", "gpt-6-luna"),
        ("gpt-5.6-sole", "gpt-5.6-sol"),
        ("zzz", "gpt-6-luna"),
        ("gpt-6-sol", "gpt-6-luna"),
    ],
)
def test_something_to_use_instead_is_always_suggested(name: str, use: str) -> None:
    assert CATALOG.suggest(name) == use


def test_accepted_parameters_depend_on_the_reasoning_effort() -> None:
    assert known("gpt-4o-mini").samples()
    assert not known("gpt-6-luna").samples()
    assert known("gpt-6-luna").samples("none")
    assert not known("gpt-6.1-sol").samples("none")
    assert known("gpt-5.4").samples()


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("gpt-4o-mini", ("o200k_base", True)),
        ("gpt-5.6-sol", ("o200k_base", True)),
        ("o3", ("o200k_base", True)),
        ("gpt-4", ("cl100k_base", True)),
        ("ft:gpt-3.5-turbo-0125:acme::x", ("cl100k_base", True)),
        ("gpt-4.1-mini-2025-04-14", ("o200k_base", True)),
        ("openai/gpt-oss-120b", ("o200k_base", True)),
        ("gpt-6-luna", ("o200k_base", False)),
        ("claude-6", ("o200k_base", False)),
    ],
)
def test_the_encoding_is_known_or_said_to_be_a_guess(name: str, encoding: tuple[str, bool]) -> None:
    assert CATALOG.encoding(name) == encoding


def test_known_encodings_are_those_of_tiktoken() -> None:
    from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

    theirs = {**MODEL_TO_ENCODING, **{prefix + "x": name for prefix, name in MODEL_PREFIX_TO_ENCODING.items()}}
    ours = {name: CATALOG.encoding(name) for name in theirs}
    wrong = {
        name: (encoding, theirs[name])
        for name, (encoding, sure) in ours.items()
        if sure and encoding != theirs[name].replace("o200k_harmony", "o200k_base")
    }
    assert wrong == {}
    assert all(ours[name][1] for name in ("gpt-5", "gpt-4.1", "gpt-4o-x", "gpt-4", "gpt-3.5-turbo", "gpt-oss-x", "o1"))


# ---------------------------------------------------------------- a person's own facts


def test_own_facts_are_laid_over_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        """
        default = "house-7b"
        [encodings]
        "house-" = "cl100k_base"
        [models."house-7b"]
        context = 8_192
        [models."gpt-4o"]
        ends = 2028-01-01
        """
    )
    own = Catalog.load(path)
    assert own.default == "house-7b"
    assert own.model("house-7b") == ModelFacts("house-7b", context=8_192)
    assert own.encoding("house-7b") == ("cl100k_base", True)
    changed = own.model("gpt-4o")
    assert changed is not None
    assert (changed.ends, changed.context) == (date(2028, 1, 1), 128_000)
    assert known("gpt-4o").ends == date(2027, 1, 14)


def test_json_is_understood_too(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"models": {"house-7b": {"ends": "2027-05-01", "efforts": ["low"]}}}')
    assert Catalog.load(path).model("house-7b") == ModelFacts("house-7b", ends=date(2027, 5, 1), efforts=("low",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[models.x]\ncontext = 'much'\n", "facts of model x are not understood: context: input should be"),
        ("[models.x]\nwindow = 1\n", "facts of model x are not understood: window: "),
        ("[models.x]\nsampling = 'maybe'\n", "facts of model x are not understood: sampling: "),
        ("[encodings]\nx = 'p50k_base'\n", "is not understood: encodings.x: "),
        ("modells = 1\n", "is not understood: modells: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        Catalog.load(path)
