"""Processes that torchrun started, on one machine or several: who is who, and how they wait.

They share a small store, torchrun's own, in which each counts its heartbeats and says how far it
is. Where one fails, or is silent for SILENT seconds, the others end too, for they would wait for it
for ever. Nothing is lost by that: what is on disk is whole, and the same command goes on from it.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

BEAT, SILENT = 0.5, 30.0  # seconds between heartbeats, and without any until one is given up
JOINING = 50.0  # seconds until every process has started
GO_ON = "start the same command again on every machine, it goes on from what is on disk"


class Lost(ValueError):
    """Another process ended, so this one cannot finish."""


@contextmanager
def processes() -> Iterator[Team]:
    """This process among those that torchrun started; it may be the only one.

    Raises ValueError for a rank that cannot be, and where the others cannot be reached; Lost, at
    whatever point the block is, where another process ends before its block did."""
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < count:
        raise ValueError(f"RANK = {rank} and WORLD_SIZE = {count}: torchrun sets both, unset them")
    if count == 1:
        yield Team(rank, count)
        return
    team = Team(rank, count, _join())
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, frame: team.interrupted(before, number, frame))
    team.start()
    try:
        yield team
        team.end("")
    except Lost:
        raise
    except BaseException as error:
        team.end(f"process {rank} of {count} stopped, {' '.join(str(error).split())[:120]!r}")
        raise
    finally:
        team.over.set()
        signal.signal(signal.SIGINT, before)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name} = {text!r} in the environment: a whole number, as torchrun sets")
    return int(text)


def _join() -> Any:
    """The store that all processes share."""
    try:
        wait = timedelta(seconds=JOINING)
        store, _, _ = next(torch.distributed.rendezvous("env://", timeout=wait))
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0][:120]
        raise ValueError(f"the other processes cannot be reached ({why}): {GO_ON}") from None
    return store


class Team:
    """This process, by its ``rank``, among ``count``.

    One thread alone talks to the store, for the store may not answer; another one watches it."""

    def __init__(self, rank: int, count: int, store: Any = None):
        self.rank, self.count = rank, count
        self.over = threading.Event()
        self._store = store
        self._why: str | None = None  # another process was lost
        self._last_word = ""
        self._meetings = self._met = 0
        self._answered = time.monotonic()
        self._heart = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        self._heart.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self) -> None:
        """Wait until every process has come to this point."""
        if self.count > 1:
            self._meetings += 1
            while self._met < self._meetings:
                time.sleep(0.05)

    def end(self, word: str) -> None:
        """Tell the others that this process is done, or by a word why it failed."""
        self._last_word = word
        self.over.set()
        self._heart.join(timeout=SILENT + 5.0)

    def interrupted(self, before: Any, number: int, frame: Any) -> None:
        """What an interrupt does: of a lost process it speaks, and else it does what it did."""
        if self._why:
            raise Lost(f"{self._why}: {GO_ON}")
        if callable(before):
            before(number, frame)

    def _live(self) -> None:
        """Count heartbeats in the store, say how far this process is, and listen to the others."""
        heard = {other: (0, time.monotonic()) for other in range(self.count) if other != self.rank}
        said = 0
        try:
            while not self.over.wait(BEAT) and self._why is None:
                self._store.add(f"beat {self.rank}", 1)
                if said < self._meetings:
                    said = self._meetings
                    self._store.add(f"met {said}", 1)
                if said and self._store.add(f"met {said}", 0) >= self.count:
                    self._met = said
                self._why = self._missed(heard)
                self._answered = time.monotonic()
            if self._why is None:
                self._leave()
        except RuntimeError:  # who is done does not care that the store is gone
            self._why = None if self.over.is_set() else "the first process or its machine has ended"

    def _leave(self) -> None:
        """Say the last word. Where torchrun does not host the store, the first process does, and
        stays until the others have heard."""
        self._store.set("failed" if self._last_word else f"done {self.rank}", self._last_word)
        others = [f"done {other}" for other in range(1, self.count)]
        until = time.monotonic() + (3 * BEAT if self._last_word else SILENT)
        hosts = self.rank == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ
        while hosts and time.monotonic() < until and not self._store.check(others):
            time.sleep(0.05)

    def _missed(self, heard: dict[int, tuple[int, float]]) -> str | None:
        """Who has failed or fallen silent, in words; ``heard`` has the last heartbeat of each."""
        if self._store.check(["failed"]):
            return self._store.get("failed").decode()
        for other, (count, at) in heard.items():
            now, silent = self._store.add(f"beat {other}", 0), time.monotonic() - at
            if now != count:
                heard[other] = (now, time.monotonic())
            elif silent > (SILENT if count else JOINING) and not self._store.check(
                [f"done {other}"]
            ):
                return f"process {other} of {self.count} was not heard of for {silent:.0f} seconds"
        return None

    def _watch(self) -> None:
        """Interrupt the process once another one is lost, or the store no longer answers."""
        while not self.over.wait(BEAT):
            if time.monotonic() - self._answered > SILENT:
                self._why = self._why or "the machine of the first process does not answer"
            if self._why:
                _thread.interrupt_main()
                return
