"""Where somebody who comes back goes on in a log: also in one that lost its end, or was made anew."""

from __future__ import annotations

from turnkeep.lean_dataclass import dataclass
from turnkeep.store.values import Page


def go_on(epoch: str, last: int, page: Page) -> int:
    """The offset after which somebody goes on in a new epoch: where he was, if the log has not lost
    anything; at the beginning of the run in progress, if it has; at the beginning of a log that was
    made anew.

    A log that lost its end and has grown past it since cannot be told from one that lost nothing.
    """
    if _log_of(page.epoch) != _log_of(epoch):
        return 0
    if last <= page.top:
        return last
    return page.top if page.live_from is None else page.live_from - 1


def _log_of(epoch: str) -> str:
    """The part of an epoch that changes only when the log itself is another one."""
    return epoch.partition(".")[0]


def is_of_log(page: Page, after: int, epoch: str | None) -> bool:
    """The position is one of this log, before or after its server was another one: also that of
    somebody who came before there was a log at all.
    """
    return epoch is not None and (_log_of(epoch) == _log_of(page.epoch) or (epoch == "" and after == 0))


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Where a subscription is to begin: after (epoch, offset), or with the last `history` events, or with
    the run in progress, or with what comes now.
    """

    after: int | None = None
    epoch: str | None = None
    history: int = 0

    def offset_in(self, page: Page) -> int:
        """The offset after which it begins."""
        after, epoch = self.after, self.epoch
        if after is not None and epoch is not None and (epoch or after == 0):
            return after if is_of_log(page, after, epoch) and after <= page.top else go_on(epoch, after, page)
        if self.history:
            return max(0, page.top - self.history)
        if page.live_from is not None:
            return page.live_from - 1
        return page.top

    def is_kept_by(self, page: Page, start: int) -> bool:
        """Whether the log has everything since: it begins where it was asked to."""
        return start == self.after and is_of_log(page, start, self.epoch) and page.floor <= start
