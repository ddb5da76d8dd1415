"""Syncing the log of changes beside the writer, which goes on meanwhile.

A sync of the disk is most of what a receipt waits for. Asked of SQLite it holds the one connection that
writes, and with it the first words of an answer, which need none. What was committed before a sync began is
on the disk when it has ended, whoever asked for it: SQLite's own says no more.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from turnkeep.store.sqlite.operation_queue import ActResult

if sys.platform == "darwin":  # its plain fsync leaves data in the cache of the disk
    import fcntl

    def _sync(file: int) -> None:
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)

else:

    def _sync(file: int) -> None:
        getattr(os, "fdatasync", os.fsync)(file)


OnSynced = Callable[[Sequence[ActResult], apsw.Error | None], None]
"""Told, in the thread that syncs, whom the disk has, or why nobody knows that."""


class LogSync:
    """One sync at a time, for all that was handed over before it began. Handed over, and asked, by the writer's
    thread alone.
    """

    def __init__(self, path: Path, on_synced: OnSynced) -> None:
        """Of an open store; raises OSError. SQLite keeps no lock on the log, so closing it gives none up."""
        self._file = os.open(f"{path}-wal", os.O_RDWR | getattr(os, "O_BINARY", 0))
        self._on_synced = on_synced
        self._change = threading.Condition()
        self._results: list[ActResult] = []
        self._is_wanted = self._is_syncing = self._is_stopping = False
        self._failure: apsw.Error | None = None
        self._thread = threading.Thread(target=self._work, name="turnkeep-sqlite-sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self, results: Sequence[ActResult]) -> None:
        """Have the disk hold what was committed until now, and say so of these."""
        with self._change:
            if (failure := self._failure) is None:
                self._results += results
                self._is_wanted = True
                self._change.notify_all()
        if failure is not None:
            self._on_synced(results, failure)

    def take_failure(self) -> apsw.Error | None:
        """Why a sync failed since this was asked last. From there on each fails, until it is asked: what was
        written behind the hole would be lost with it.
        """
        with self._change:
            failure, self._failure = self._failure, None
        return failure

    def wait(self) -> None:
        """Until no sync is under way."""
        with self._change:
            self._change.wait_for(lambda: not (self._is_wanted or self._is_syncing))

    def stop(self) -> None:
        """Do what was asked for, then end."""
        with self._change:
            self._is_stopping = True
            self._change.notify_all()
        self._thread.join()
        os.close(self._file)

    def _work(self) -> None:
        while (results := self._next()) is not None:
            failure: apsw.Error | None = None
            try:
                _sync(self._file)
            except OSError as error:
                failure = apsw.IOError(f"the log could not be synced: {error.strerror}")
            with self._change:
                if failure is not None:
                    self._failure = failure
                    # they came while it failed: the system may have tried, and given up, their pages too
                    results += self._results
                    self._results, self._is_wanted = [], False
                self._is_syncing = False
                self._change.notify_all()
            self._on_synced(results, failure)

    def _next(self) -> list[ActResult] | None:
        """Whom the next sync is for; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._is_wanted or self._is_stopping)
            if not self._is_wanted:
                return None
            results, self._results = self._results, []
            self._is_wanted, self._is_syncing = False, True
        return results
