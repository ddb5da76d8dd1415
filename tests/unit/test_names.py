"""Names are nouns for things and verbs for acts, and each means one thing."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

pytestmark = pytest.mark.xdist_group("names")  # they share what was parsed

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "src" / "turnkeep"
FILES = sorted(SOURCE.rglob("*.py"))
GLOSSARY = ROOT / "docs" / "glossary.md"

OF_A_TEST = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+.*$", re.M)
IRREGULAR = frozenset(
    re.findall(
        r"\w+",
        """
        asked begun broken brought bought built caught chosen dealt done drawn eaten fallen felt forbidden forgotten
        fought found frozen given gone gotten grown heard held hidden kept known laid led left lent lost made meant met
        paid risen said seen sent shown shut sold spent spoken stolen stood struck stuck taken taught thought thrown
        told torn understood undone unknown unread unseen unsent withdrawn withheld woken won worn written
        """,
    )
)
NOT_PARTICIPLES = frozenset(
    re.findall(r"\w+", "breed embed exceed feed hundred indeed naked need proceed sacred seed shed speed succeed")
)

PARTICIPLES_ALLOWED: dict[str, str] = {
    "method read": "the verb in the imperative",
    "function _read": "the verb in the imperative",
    "method _read": "the verb in the imperative",
    "method elapsed": "a stopwatch's reading, the term of the field",
    "field elapsed": "a stopwatch's reading, the term of the field",
    "parameter frozen": "the option of Python's dataclass",
    "field disconnected": "uvicorn's name of it, of a cycle that nobody waits for",
    "field completed": "a state that is counted; the word of the API",
    "field failed": "a state that is counted; the word of the API",
    "field delayed": "a state that is counted; the word of the API",
    "field held": "a state that is counted; the word of the API",
    "field paused": "a state that is counted; the word of the API",
    **dict.fromkeys(
        re.findall(
            r"field \w+",
            """
            field flushed, field frozen, field published, field spent, field unpriced, field estimated, field minted,
            field interrupted, field cached, field repeated, field parked, field lost
            """,
        ),
        "the name under which it is stored",
    ),
    **dict.fromkeys(
        (f"field {name}" for name in ("arrived", "sent", "finished", "ended")),
        "a moment of the simulator's ledger, as its HTTP form",
    ),
    "global FAILED": "the exit code of that name",
    "global INTERRUPTED": "the exit code of that name",
    "global BROKEN": "the close code 1011 of that name",
}
"""Kind and name to the reason why it stands. Members of an Enum and values of a Literal are states: not looked at."""

STEMS_ALLOWED: dict[str, str] = {
    **dict.fromkeys(
        ("inbox", "events", "threads", "registry", "ledger", "outbox", "dead_letters", "codec", "once"),
        "one part of the store's contract, in each engine under the same name",
    ),
    **dict.fromkeys(
        ("assistants", "backup", "sinks", "threads", "worker"),
        "the file of a verb has the name of the verb, as it is typed",
    ),
}
CLASSES_ALLOWED: dict[str, str] = {}


def is_participle(name: str) -> bool:
    word = name.strip("_").lower()
    if re.search(r"[a-z][A-Z]", name) or not word.isalpha() or word in NOT_PARTICIPLES:
        return False
    return word in IRREGULAR or (word.endswith("ed") and len(word) > 4)


class Names(ast.NodeVisitor):
    """Every name that a file gives to something, with its kind."""

    def __init__(self) -> None:
        self.kinds = ["global"]
        self.given: list[tuple[str, str, int]] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.given.append(("class", node.name, node.lineno))
        is_enum = any("Enum" in ast.unparse(base) for base in node.bases)
        self._within("state" if is_enum else "field", node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.given.append(("method" if self.kinds[-1] == "field" else "function", node.name, node.lineno))
        self._within("local", node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _within(self, kind: str, node: ast.AST) -> None:
        self.kinds.append(kind)
        self.generic_visit(node)
        self.kinds.pop()

    def visit_arg(self, node: ast.arg) -> None:
        self.given.append(("parameter", node.arg, node.lineno))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.given.append((self.kinds[-1], node.id, node.lineno))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self.given.append(("field", node.attr, node.lineno))
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.given.append(("local", node.name, node.lineno))
        self.generic_visit(node)


def names_of(tree: ast.Module) -> list[tuple[str, str, int]]:
    reader = Names()
    reader.visit(tree)
    return reader.given


def breaches(given: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    for kind, name, line in given:
        if kind != "state" and is_participle(name) and f"{kind} {name}" not in PARTICIPLES_ALLOWED:
            yield f"{line}: the {kind} {name!r} is a bare participle: say what it is (a noun) or does (a verb)"


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def targets_of(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def late_constants(source: str, tree: ast.Module) -> Iterator[str]:
    """What stands behind the first function or class though it could stand before it: not what is made of them, and not
    what shares its lines with such a one (no blank line between), as the options of a verb do.
    """
    lines, defined, block, end = source.splitlines(), set[str](), list[tuple[str, bool]](), 0
    for node in tree.body:
        if any(not line.strip() for line in lines[end : node.lineno - 1]):
            yield from together(block)
            block = []
        end = node.end_lineno or node.lineno
        if isinstance(node, Definition):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and defined:
            needs_them = bool(defined & {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)})
            is_attribute = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
            names = targets_of(node)
            if needs_them:
                defined |= names
            block.append((", ".join(sorted(names)), needs_them or is_attribute))
        elif not isinstance(node, ast.Expr) and defined:
            defined |= {
                one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
            }
    yield from together(block)


def together(block: Sequence[tuple[str, bool]]) -> Iterator[str]:
    if not any(needs_them for _, needs_them in block):
        yield from (name for name, _ in block)


@dataclass(frozen=True)
class Outline:
    """What the tests ask of a file."""

    given: list[tuple[str, str, int]]
    late: list[str]
    assigned: set[str]
    aliases: set[str]
    imports: set[tuple[str, str | None]]


@functools.cache
def outline_of(path: pathlib.Path) -> Outline:
    source = path.read_text()
    tree = ast.parse(source)
    assignments = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    aliases = [node for node in assignments if "TypeVar" not in source or "TypeVar" not in ast.unparse(node)]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return Outline(
        given=names_of(tree),
        late=list(late_constants(source, tree)),
        assigned={name for node in assignments for name in targets_of(node)},
        aliases={name for node in aliases for name in targets_of(node)},
        imports={(one.name, node.module) for node in imports for one in node.names},
    )


def test_no_name_is_a_bare_participle() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{breach}" for path in FILES for breach in breaches(outline_of(path).given)]
    wrong += [
        f"{path.relative_to(ROOT)}: the module is a bare participle" for path in FILES if is_participle(path.stem)
    ]
    assert wrong == []


def test_no_file_name_means_two_things() -> None:
    homes = defaultdict(list)
    for path in FILES:
        if not path.stem.startswith("__"):
            homes[path.stem].append(str(path.relative_to(SOURCE)))
    assert {stem: files for stem, files in homes.items() if len(files) > 1 and stem not in STEMS_ALLOWED} == {}


def test_no_class_name_means_two_things() -> None:
    homes = defaultdict(list)
    for path in FILES:
        for kind, name, line in outline_of(path).given:
            if kind == "class":
                homes[name].append(f"{path.relative_to(SOURCE)}:{line}")
    assert {name: places for name, places in homes.items() if len(places) > 1 and name not in CLASSES_ALLOWED} == {}


def test_constants_stand_at_the_head_of_their_file() -> None:
    late = {f"{path.relative_to(ROOT)}: {name}" for path in FILES for name in outline_of(path).late}
    assert sorted(late) == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(): ...\n\nLIMIT = 1",
        "class A: ...\n\nWORDS: tuple[str, ...] = ('a',)",
        "def f(): ...\n\nTABLE = {'f': f}\n\nLIMIT = 1",
    ],
)
def test_a_late_constant_is_seen(source: str) -> None:
    assert len(list(late_constants(source, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "LIMIT = 1\n\ndef f(): ...",
        "def f(): ...\n\nTABLE = {'f': f}\nLIMIT = 1",
        "class A: ...\n\nNOBODY = A()\n\nALL = (NOBODY,)",
        "class A: ...\n\nA.limit = 1",
    ],
)
def test_what_is_made_of_functions_may_come_after_them(source: str) -> None:
    assert list(late_constants(source, ast.parse(source))) == []


def test_a_name_that_others_import_means_one_thing() -> None:
    homes, imports = defaultdict(set), set()
    for path in FILES:
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for name in outline_of(path).assigned:
            homes[name].add(module)
        imports |= outline_of(path).imports
    shared = {name for name, modules in homes.items() if any((name, module) in imports for module in modules)}
    assert {name: sorted(homes[name]) for name in sorted(shared) if len(homes[name]) > 1} == {}


def test_no_alias_of_a_type_means_two_things() -> None:
    homes = defaultdict(list)
    for path in FILES:
        for name in outline_of(path).aliases:
            if re.fullmatch(r"[A-Z][a-z]\w*", name):
                homes[name].append(str(path.relative_to(SOURCE)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_what_test_modules_share_has_a_home_of_its_own() -> None:
    """Who changes a test need not know who else counts on it."""
    folders = (ROOT / "tests", ROOT / "bench", ROOT / "scripts")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    lent = {f"{file.relative_to(ROOT)}: {line}" for file in files for line in OF_A_TEST.findall(file.read_text())}
    assert sorted(lent) == []


def test_exceptions_are_still_needed() -> None:
    given = {f"{kind} {name}" for path in FILES for kind, name, _ in outline_of(path).given}
    assert [name for name in PARTICIPLES_ALLOWED if name not in given] == []
    stems = [path.stem for path in FILES]
    assert [stem for stem in STEMS_ALLOWED if stems.count(stem) < 2] == []


def glossary() -> dict[str, str]:
    entries: dict[str, str] = {}
    for word, text in re.findall(r"^\*\*(.+?)\*\*:? (.*?)(?=\n\n|\Z)", GLOSSARY.read_text(), flags=re.M | re.S):
        assert word not in entries, f"{word} is explained twice"
        entries[word] = text
    return entries


def test_every_word_of_the_glossary_is_explained_in_sixty_words() -> None:
    entries = glossary()
    assert len(entries) > 40
    assert {word: len(text.split()) for word, text in entries.items() if len(text.split()) > 60} == {}


def test_packages_are_words_of_the_glossary() -> None:
    words = {word.lower() for word in glossary()}
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    plain = {"cli", "auth", "testing"}
    assert {room for room in rooms - plain if room not in words and room.removesuffix("s") not in words} == set()


@pytest.mark.parametrize(
    "source",
    [
        "kept = 1",
        "def f(told): ...",
        "class Asked: ...",
        "def known(): ...",
        "def f():\n found = 1",
        "class A:\n given: int",
        "UNKNOWN = 1",
    ],
)
def test_a_breach_is_seen(source: str) -> None:
    assert list(breaches(names_of(ast.parse(source))))


@pytest.mark.parametrize(
    "source", ["is_paused = 1", "def read(): ...", "kept_rows = 1", "class ModelRefused: ...", "seed = 1"]
)
def test_good_names_pass(source: str) -> None:
    assert list(breaches(names_of(ast.parse(source)))) == []
