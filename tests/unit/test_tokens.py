"""Tokens are counted offline and exactly: the ids are tiktoken's own, whatever the text."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import json
import math
import pydoc_data.topics
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken
import tiktoken.load
from hypothesis import assume, given
from hypothesis import strategies as st

from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Item,
    OutputItem,
    Part,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.pricing import Catalog, byte_pairs, item_tokens, ranks, tokenizer_for
from turnkeep.pricing import tokenizer as tokens
from turnkeep.pricing.byte_pairs import PLAIN_TEXT, PLAIN_WORD, find_foreign
from turnkeep.pricing.tokenizer import ENCODINGS, SLICE, Vocabulary, clean, guess, slices

pytestmark = [pytest.mark.xdist_group("tokens"), pytest.mark.slow]  # they share what tiktoken loads, in seconds

DEFINITIONS = importlib.import_module("tiktoken_ext.openai_public")  # without types
MODEL = {"o200k_base": "gpt-4o-mini", "cl100k_base": "gpt-4"}


@pytest.fixture(scope="module", params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def oracle(encoding: str, tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    """tiktoken's own definition of the encoding; its loader checks the SHA-256 of the ranks that we rebuild."""
    path = tmp_path_factory.mktemp("ranks") / f"{encoding}.tiktoken"
    path.write_bytes(ranks.publish(ranks.load_ranks(encoding)))

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        assert url.endswith(f"/{path.name}")
        return tiktoken.load.load_tiktoken_bpe(str(path), expected_hash)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        patch.setattr(DEFINITIONS, "load_tiktoken_bpe", load)
        return tiktoken.Encoding(**DEFINITIONS.ENCODING_CONSTRUCTORS[encoding]())


# ---------------------------------------------------------------- kinds of text


def prose() -> str:
    return "\n\n".join(pydoc_data.topics.topics.values())


def code() -> str:
    folder = Path(asyncio.__file__).parent
    return "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))


def scripts_and_emoji() -> str:
    lines = [
        "Ελλάδα: η γλώσσα μας, 3.400 χρόνια γραπτή.",
        "Русский язык — один из восточнославянских языков.",
        "שלום עולם, מה שלומך היום?",
        "اللُّغَةُ العَرَبِيَّةُ هِيَ أكثر اللغات انتشارًا.",
        "हिन्दी विश्व की एक प्रमुख भाषा है।",
        "中文维基百科的目标是建立一个完整、准确和中立的百科全书。",
        "日本語の文章は、ひらがなとカタカナと漢字を混ぜて書きます。",
        "한국어는 한반도에서 사용되는 언어이다.",
        "ภาษาไทยเป็นภาษาที่มีระดับเสียง",
        "🙂👩‍👩‍👧‍👦🚀🇩🇪✨ 👍🏽 naïve façade Åse İstanbul ﬁn",
    ]
    pick = random.Random(1)
    return " ".join(pick.choice(lines) + pick.choice(["", "\n", "\n\n", "…"]) for _ in range(4_000))


def json_text() -> str:
    pick = random.Random(2)
    rows = [
        {"id": f"{pick.getrandbits(128):032x}", "n": pick.random(), "ok": None, "tags": ["a b", "c\td", "é"]}
        for _ in range(1_500)
    ]
    return json.dumps(rows) + json.dumps(rows[:300], indent=2, ensure_ascii=False)


def random_unicode() -> str:
    pick = random.Random(3)
    return "".join(chr(pick.choice([pick.randint(1, 0xD7FF), pick.randint(0xE000, 0x10FFFF)])) for _ in range(30_000))


def whitespace_runs() -> str:
    pick = random.Random(4)
    return "".join(pick.choice(" \t\n\r\u00a0\u3000x") * pick.randint(1, 90) for _ in range(3_000))


def one_letter() -> str:
    return "a" * 20_000


def contractions_and_numbers() -> str:
    pick = random.Random(5)
    words = ["it's", "WE'LL", "o'Clock'D", "1234567", "3.14", "x²", "Ⅻ", "__init__", "//--==>", "a/b/c\n/d", "don’t"]
    return " ".join(pick.choice(words) for _ in range(20_000))


def special_tokens() -> str:
    return "<|endoftext|> <|im_start|>user<|im_end|><|fim_prefix|><|endofprompt|> <|reserved_200000|>" * 1_500


KINDS: list[Callable[[], str]] = [
    prose,
    code,
    scripts_and_emoji,
    json_text,
    random_unicode,
    whitespace_runs,
    one_letter,
    contractions_and_numbers,
    special_tokens,
]


@pytest.mark.daily(rows=2)  # each kind of text in one of the encodings
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tiktoken(kind: Callable[[], str], encoding: str, oracle: tiktoken.Encoding) -> None:
    text = kind()
    tokenizer = tokenizer_for(MODEL[encoding])
    assert tokenizer.encoding == encoding
    assert Vocabulary.encode(tokens._VOCABULARIES[encoding], text) == oracle.encode_ordinary(text)
    assert tokenizer.count(text) == len(oracle.encode_ordinary(text))


def pieces_of(text: str, size: int) -> list[str]:
    return [text[place : place + size] for place in range(0, min(len(text), 200 * size), size)]


@pytest.mark.daily(rows=2)  # each kind of text in one of the encodings
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_short_texts_are_those_of_tiktoken(
    kind: Callable[[], str], encoding: str, oracle: tiktoken.Encoding
) -> None:
    encode = tokens._VOCABULARIES[encoding].encode
    wrong = [piece for piece in pieces_of(kind(), 331) if encode(piece) != oracle.encode_ordinary(piece)]
    assert wrong == []


@pytest.fixture(scope="module")
def engine(encoding: str) -> Iterator[Callable[[str], list[int]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_pairs, "PLAIN_MERGES", math.inf)  # however many of these tests have counted with it
        yield tokens._reference_engine(encoding)


def test_every_plain_character_is_cut_and_merged_as_by_tiktoken(
    engine: Callable[[str], list[int]], oracle: tiktoken.Encoding, size: Callable[[int, int], int]
) -> None:
    characters = [c for c in map(chr, range(0x20000)) if not 0xD800 <= ord(c) <= 0xDFFF and not find_foreign(c)]
    assert len(characters) > 6_000
    places = ("a{}b", " {0}{0}x 1{0}2", "{0}'s{0}\n {0} \n\n{0}", "'{0} I'{0}l A{0}B", "{0}\r\n /{0}/ a{0}{0}  ")
    texts = [place.format(c) for c in characters[:: size(7, 1)] for place in places]
    assert [text for text in texts if engine(text) != oracle.encode_ordinary(text)] == []


MIXTURE = "abdeglmnrstvyDLMRSTV'’ 0123.,:!?-_/(\"\n\r\t ñéßİıſµ²ΩλДя—“🙂🏽\ufe0f\u0301\u00a0\x1c\x85"


@given(st.text(st.sampled_from(MIXTURE)))
def test_plain_texts_are_cut_and_merged_as_by_tiktoken(
    engine: Callable[[str], list[int]], oracle: tiktoken.Encoding, text: str
) -> None:
    assert engine(text) == oracle.encode_ordinary(text)


def documents_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Whether a text is one for the engine for documents."""
    monkeypatch.setattr(tokens, "_document_engine", lambda encoding: lambda text: [-1])
    engine = tokens._reference_engine("o200k_base")
    return lambda text: engine(text) == [-1]


LONG = [*("b" * PLAIN_WORD + "b", "-" * 40, "_" * 40, " " * 40), "a b " * (PLAIN_TEXT // 4) + "c"]


def test_what_is_long_or_merged_letter_by_letter_is_for_the_engine_for_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_for_documents = documents_of(monkeypatch)
    assert [t for t in ["你好", "ひ", "한", "ก", "x\u209f", "\U0001e900", *LONG] if not is_for_documents(t)] == []
    assert [t for t in ["b" * PLAIN_WORD, "a b " * (PLAIN_TEXT // 4)] if is_for_documents(t)] == []


def test_who_merges_much_is_given_the_engine_for_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message may hold a quarter of a megabyte of words that are no tokens, and after it comes the next."""
    monkeypatch.setattr(byte_pairs, "PLAIN_MERGES", 3_000)
    is_for_documents, chance = documents_of(monkeypatch), random.Random(1)
    texts = ["".join(chance.choices("aeiknstu", k=30)) for _ in range(200)]
    assert [is_for_documents(text) for text in texts] == [False] * 101 + [True] * 99
    assert is_for_documents("Hello, how are you?"), "what is there is used"


PLAIN = ["", "Hello, how are you?", "Straße", "Привет, мир", "Ελλάδα", "f(x) = x**2;\n\tend", "👍🏽 – “ok” → 5 €"]


@pytest.mark.parametrize("text", [*PLAIN, "a b " * (PLAIN_TEXT // 4)])
def test_plain_texts_need_no_engine_for_documents(
    text: str, engine: Callable[[str], list[int]], oracle: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str) -> Callable[[str], list[int]]:
        raise AssertionError(f"{name} was built for {text[:20]!r}")

    ids = oracle.encode_ordinary(text)
    monkeypatch.setattr(tokens, "_document_engine", build)
    assert engine(text) == ids


def test_the_ranks_shipped_are_the_ones_that_tiktoken_would_download(encoding: str) -> None:
    rebuilt = ranks.publish(ranks.load_ranks(encoding))
    theirs = Path(str(DEFINITIONS.__file__)).read_text()
    digest = hashlib.sha256(rebuilt).hexdigest()
    assert digest == ranks.SHA256[encoding]
    assert f'{encoding}.tiktoken",\n        expected_hash="{digest}"' in theirs


def test_packing_loses_nothing() -> None:
    pieces = [bytes([value]) for value in range(256)] + [b"ab", b"\x00" * 255]
    assert ranks.unpack(ranks.pack(pieces)) == pieces
    assert ranks.parse(ranks.publish(pieces)) == pieces


def test_ranks_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        ranks.parse(b"IQ== 0\nIg== 2\n")


# ---------------------------------------------------------------- long and broken text


@given(st.lists(st.text(st.sampled_from("abst 1'.,)\"\n\r\t/_-é你。🙂\u0301A²"), max_size=12), max_size=40))
def test_a_cut_changes_no_token(oracle: tiktoken.Encoding, encoding: str, words: Sequence[str]) -> None:
    text = " x".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SLICE", 30)
        patch.setattr(tokens, "_SEAM_SEARCH", 30)
        pieces = list(slices(text))
        assume(all(len(piece) < 30 for piece in pieces[:-1]))  # a full slice was cut where there is no seam
        ids = tokens._VOCABULARIES[encoding].encode(text)
    assert "".join(pieces) == text
    assert ids == oracle.encode_ordinary(text)


@pytest.mark.parametrize("shift", range(12))
def test_no_cut_falls_into_a_contraction(shift: int, oracle: tiktoken.Encoding, encoding: str) -> None:
    text = "y" * shift + " don't it's we'll" * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SLICE", 12)
        patch.setattr(tokens, "_SEAM_SEARCH", 12)
        assert tokens._VOCABULARIES[encoding].encode(text) == oracle.encode_ordinary(text)


def test_slices_are_bounded_and_lose_nothing() -> None:
    for text in (prose(), "a" * 200_000, " " * 200_000, "", "x" * SLICE, "x" * (SLICE + 1)):
        pieces = list(slices(text))
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= SLICE <= 64_000


@pytest.mark.daily(rows=2)  # blanks of two kinds
@pytest.mark.parametrize("text", [" " * 1_000_000, " " * 1_000_000 + "x", "\n" * 1_000_000, "a" * 1_000_000])
def test_a_million_blanks_do_no_harm(text: str) -> None:
    assert 0 < tokenizer_for("gpt-4o-mini").count(text) < len(text)


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    count = tokenizer_for("gpt-4o-mini").count
    assert clean("a\ud800b") == "a\ufffdb"
    assert clean("\ud83d\ude42") == "🙂"
    assert count("a\ud800b") == count("a\ufffdb")


def test_no_engine_ever_sees_a_lone_surrogate() -> None:
    strict = Vocabulary("o200k_base")
    strict._engine = lambda text: list(text.encode())
    assert strict.count("a\ud800") == len("a\ufffd".encode())


def test_what_looks_like_a_special_token_is_ordinary_text() -> None:
    assert tokenizer_for("gpt-4o-mini").count("<|endoftext|>") == 7


def test_a_panic_of_the_engine_is_a_guess_and_no_crash() -> None:
    class PanicException(BaseException):
        pass

    def panic(text: str) -> list[int]:
        raise PanicException(text[:1])

    broken = Vocabulary("o200k_base")
    broken._engine = panic
    assert broken.count("some words") == guess("some words") == 3


def test_a_cancelled_count_stays_cancelled() -> None:
    def cancel(text: str) -> list[int]:
        raise asyncio.CancelledError

    broken = Vocabulary("o200k_base")
    broken._engine = cancel
    with pytest.raises(asyncio.CancelledError):
        broken.count("some words")


# ---------------------------------------------------------------- engines


async def test_without_tiktoken_a_guess_is_made_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bare = tokens.Tokenizer(Vocabulary("o200k_base"), is_known=True)
    assert bare.is_estimate
    await bare.load()
    assert bare.count("Hello, how are you?") == guess("Hello, how are you?")


def test_an_engine_that_cannot_be_imported_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(name: str) -> Callable[[str], list[int]]:
        tried.append(name)
        raise ImportError(name)

    monkeypatch.setattr(tokens, "_fast_engine", lambda name: None)
    monkeypatch.setattr(tokens, "_reference_engine", fail)
    bare = tokens.Tokenizer(Vocabulary("o200k_base"), is_known=True)
    assert [bare.count("one two"), bare.count("one two")] == [guess("one two")] * 2
    assert bare.is_estimate
    assert len(tried) == 1


@pytest.mark.parametrize("kind", [prose, code, scripts_and_emoji, json_text])
def test_a_guess_is_rather_too_high_and_never_far_too_low(kind: Callable[[], str]) -> None:
    text = kind()[:100_000]
    exact = tokenizer_for("gpt-4o-mini").count(text)
    assert 0.9 * exact <= guess(text) <= 1.6 * exact


def test_the_check_text_has_the_recorded_ids(encoding: str, oracle: tiktoken.Encoding) -> None:
    ids = oracle.encode_ordinary(tokens._CHECK_TEXT)
    assert tokens.digest(ids) == tokens._CHECK_DIGEST[encoding]


@pytest.mark.parametrize("agrees", [True, False])
def test_a_fast_engine_is_used_only_if_it_agrees(
    agrees: bool, oracle: tiktoken.Encoding, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return oracle.encode_ordinary(text) if agrees else [1, 2, 3]

    built = SimpleNamespace(encode_ordinary=encode)
    splintr = SimpleNamespace(Tokenizer=SimpleNamespace(from_pretrained=lambda name: built))
    monkeypatch.setitem(sys.modules, "splintr", splintr)
    fast = Vocabulary(encoding)
    assert fast.encode("hello world") == oracle.encode_ordinary("hello world")
    assert ("hello world" in asked) is agrees


@pytest.mark.parametrize("name", ["_reference_engine", "_document_engine"])
def test_a_vocabulary_is_built_once_whoever_comes_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    begun = threading.Barrier(8)

    second = threading.Barrier(2)

    def build(name: str) -> Callable[[str], list[int]]:
        built.append(name)
        with contextlib.suppress(threading.BrokenBarrierError):
            second.wait(0.2)  # time for another thread to come in, if nothing stops it
        return lambda text: [len(text)]

    monkeypatch.setattr(tokens, "_fast_engine", lambda name: None)
    monkeypatch.setattr(tokens, name, build)
    shared = Vocabulary("o200k_base")

    def count() -> None:
        begun.wait(10)
        assert shared.encode("你好吗") == [3]

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert built == ["o200k_base"]


async def test_loading_ahead_takes_place_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def build(name: str) -> Callable[[str], list[int]]:
        seen.append(threading.current_thread().name)
        return lambda text: []

    monkeypatch.setattr(tokens, "_fast_engine", build)
    tokenizer = tokens.Tokenizer(Vocabulary("o200k_base"), is_known=True)
    await tokenizer.load()
    tokenizer.count("x")
    assert len(seen) == 1
    assert seen != [threading.main_thread().name]


def run_fresh(code: str) -> str:
    """What a new interpreter prints, in which every try to reach the network is fatal."""
    guard = """
import socket
def refuse(*a, **k): raise AssertionError("a connection was tried")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
"""
    done = subprocess.run(
        [sys.executable, "-c", guard + code], capture_output=True, text=True, timeout=280, check=False, env={}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_first_count_needs_no_network() -> None:
    assert run_fresh("from turnkeep.pricing import tokenizer_for as t; print(t('gpt-4').count('Hello world'))") == "2"


def test_a_vocabulary_keeps_its_table_once() -> None:
    engine: Any = tokens._document_engine("cl100k_base")
    assert engine("Hello world") == [9906, 1917]
    assert len(engine.__self__._mergeable_ranks) == 0  # what is kept is in the core, which is compiled


def test_engines_and_tables_are_imported_only_when_used() -> None:
    code = """
import sys
import turnkeep.pricing as p
book, tokenizer, catalog = p.PriceBook(), p.tokenizer_for("gpt-6-luna"), p.Catalog.load()
assert tokenizer.is_estimate
print([name for name in ("tiktoken", "splintr", "genai_prices") if name in sys.modules])
tokenizer.count("x"), book.price("gpt-6-luna")
print("tiktoken" in sys.modules or "splintr" in sys.modules, "genai_prices" in sys.modules)
"""
    assert run_fresh(code) == "[]\nTrue True"


# ---------------------------------------------------------------- what surrounds the text


def test_a_models_own_encoding_is_exact_and_a_stranger_is_estimated() -> None:
    assert not tokenizer_for("gpt-4o-mini").is_estimate
    assert not tokenizer_for("gpt-4-0613").is_estimate
    for stranger in ("gpt-6-luna", "llama-9-70b"):
        assert tokenizer_for(stranger).is_estimate
        assert tokenizer_for(stranger).encoding == "o200k_base"


def test_an_own_list_decides_the_encoding(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[encodings]\n"llama-" = "cl100k_base"\n')
    tokenizer = tokenizer_for("llama-9-70b", Catalog.load(path))
    assert (tokenizer.encoding, tokenizer.is_estimate) == ("cl100k_base", False)


@pytest.mark.parametrize(("model", "reported"), [("gpt-3.5-turbo", 129), ("gpt-4", 129), ("gpt-4o-mini", 124)])
def test_messages_weigh_what_the_api_reported_for_them(model: str, reported: int) -> None:
    """The example of the provider's guide to counting, with the prompt tokens that the API answered."""
    shots = [
        ("example_user", "New synergies will help drive top-line growth."),
        ("example_assistant", "Things working well together will increase revenue."),
        (
            "example_user",
            "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
        ),
        ("example_assistant", "Let's talk later when we're less busy about how to do better."),
    ]
    items: list[Item] = [
        SystemItem(
            "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."
        ),
        *(SystemItem(text) for _, text in shots),
        UserItem(
            text_content("This late pivot means we don't have time to boil the ocean for the client deliverable.")
        ),
    ]
    tokenizer = tokenizer_for(model)
    names = sum(1 + tokenizer.count(name) for name, _ in shots)  # our items have no names
    assert tokenizer.count_items(items) + names == reported


def test_instructions_weigh_as_much_as_a_system_message() -> None:
    tokenizer = tokenizer_for("gpt-4o-mini")
    assert tokenizer.count_items([], instructions="Be brief.") == tokenizer.count_items([SystemItem("Be brief.")])
    assert tokenizer.count_items([]) == 3


def test_a_request_weighs_the_sum_of_its_items() -> None:
    items: list[Item] = [
        UserItem(text_content("What is the weather in Paris?")),
        ReasoningItem({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look it up."}]}),
        CallItem("call_1", "weather", '{"city":"Paris"}'),
        OutputItem("call_1", "12 °C, rain"),
        AssistantItem("It rains."),
    ]
    tokenizer = tokenizer_for("gpt-4o-mini")
    assert tokenizer.count_items(items) == 3 + sum(item_tokens(item, "gpt-4o-mini") for item in items)
    assert all(item_tokens(item, "gpt-4o-mini") > 3 for item in items)


def test_sealed_reasoning_weighs_by_its_length() -> None:
    def weight(sealed: str | None) -> int:
        return item_tokens(ReasoningItem({"summary": None, "encrypted_content": sealed}), "gpt-4o-mini")

    assert weight(None) == 3
    assert weight("A" * 1_600) == 3 + 300


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        (Part("image", data={"image_url": "data:image/png;base64,AAAA"}), 765),
        (Part("image", data={"image_url": "https://example.org/a.png", "detail": "low"}), 85),
        (Part("image", data={"image_url": {"url": "https://example.org/a.png", "detail": "low"}}), 85),
        (Part("image", data={"image_url": {"url": "https://example.org/a.png"}}), 765),
        (Part("file", data={"file_id": "file_1"}), 1_000),
    ],
)
def test_images_and_files_have_a_weight_too(part: Part, weight: int) -> None:
    plain = UserItem(text_content("look"))
    with_part = UserItem((Part("text", "look"), part))
    assert item_tokens(with_part, "gpt-4o-mini") - item_tokens(plain, "gpt-4o-mini") == weight


def test_tools_weigh_what_they_say() -> None:
    tokenizer = tokenizer_for("gpt-4o-mini")
    schema: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = SimpleNamespace(name="weather", description="The weather in a city.", parameters=schema)
    words = tokenizer.count("weather") + tokenizer.count("The weather in a city.")
    expected = words + tokenizer.count('{"type":"object","properties":{"city":{"type":"string"}}}') + 8
    assert tokenizer.count_tool(tool) == expected
    assert tokenizer.count_items([], tools=[tool, tool]) == 3 + 2 * expected
