"""The models the simulator knows. Names that are not here are served too, unless told otherwise."""

from __future__ import annotations

from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`fixed_sampling`: temperature and top_p are refused unless the reasoning effort is none."""

    name: str
    created_at: int
    window: int
    shutdown: str | None = None
    fixed_sampling: bool = False


_MODELS = (
    KnownModel("gpt-6-astra", 1_788_393_600, 922_000, fixed_sampling=True),
    KnownModel("gpt-6.1-sol", 1_790_640_000, 922_000, fixed_sampling=True),
    KnownModel("gpt-6.1-terra", 1_790_640_000, 922_000, fixed_sampling=True),
    KnownModel("gpt-6-sol", 1_790_035_200, 922_000, fixed_sampling=True),
    KnownModel("gpt-6-luna", 1_790_035_200, 922_000, fixed_sampling=True),
    KnownModel("gpt-5.5", 1_777_000_000, 1_050_000, fixed_sampling=True),
    KnownModel("gpt-5.4-mini", 1_773_000_000, 272_000, fixed_sampling=True),
    KnownModel("gpt-5.4-nano", 1_773_000_000, 272_000, "2027-04-01", fixed_sampling=True),
    KnownModel("gpt-5", 1_754_500_000, 272_000, "2026-12-11", fixed_sampling=True),
    KnownModel("gpt-5-mini", 1_754_500_000, 272_000, "2026-12-11", fixed_sampling=True),
    KnownModel("gpt-4.1", 1_744_600_000, 1_050_000, "2027-01-14"),
    KnownModel("gpt-4.1-mini", 1_744_600_000, 1_050_000, "2027-01-14"),
    KnownModel("gpt-4o", 1_715_300_000, 128_000, "2027-01-14"),
    KnownModel("gpt-4o-mini", 1_721_200_000, 128_000, "2027-01-14"),
)
KNOWN_MODELS = {model.name: model for model in _MODELS}
# Gone from the platform: refused even where any other name is served.
RETIRED_MODELS = frozenset(("gpt-3.5-turbo", "gpt-4", "gpt-4-turbo", "o1", "o3-mini", "o4-mini", "gpt-4.1-nano"))
MESSAGE_MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-haiku-4-5")
DEFAULT_WINDOW = 128_000


def window(model: str) -> int:
    entry = KNOWN_MODELS.get(model)
    return entry.window if entry is not None else DEFAULT_WINDOW
