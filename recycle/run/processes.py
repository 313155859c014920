"""Processes that torchrun started, on one machine or several: who is who, how they wait, and who
does what.

They share a small store, torchrun's own, in which each counts its heartbeats, says how far it is,
and claims what it will do. Where one fails, or is silent for SILENT seconds, the others end too,
for they would wait for it for ever. Nothing is lost by that: what is on disk is whole, and the same
command goes on from it.
"""

from __future__ import annotations

import _thread
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from recycle.run import progress

BEAT, SILENT = 0.5, 30.0  # seconds between heartbeats, and without any until one is given up
JOINING = 50.0  # seconds until every process has started
STUCK = 10.0  # seconds that a process has to end by itself
GO_ON = "start the same command again on every machine, it goes on from what is on disk"


class Lost(ValueError):
    """Another process ended, so this one cannot finish."""


@contextmanager
def processes(in_step: bool = False) -> Iterator[Team]:
    """This process among those that torchrun started; it may be the only one. Where they are to go
    ``in_step``, they also form torch.distributed's group, over which a model can be spread.

    Raises ValueError for a rank that cannot be, and where the others cannot be reached; Lost, at
    whatever point the block is, where another process ends before its block did."""
    own, count = rank(), _number("WORLD_SIZE", 1)
    if not 0 <= own < count:
        raise ValueError(f"RANK = {own} and WORLD_SIZE = {count}: torchrun sets both, unset them")
    if count == 1:
        yield Team(own, count)
        return
    team = Team(own, count, _join())
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, frame: team.interrupted(before, number, frame))
    team.start()
    try:
        if in_step:
            team.form_group()
        yield team
        team.end("")
        if in_step:
            torch.distributed.destroy_process_group()
    except Lost:
        raise
    except RuntimeError as error:
        if team.in_step and _of_group(error):
            raise Lost(f"another process ended ({shortest(error)}): {GO_ON}") from None
        team.end(f"process {own} of {count} stopped, {shortest(error)!r}")
        raise
    except BaseException as error:
        team.end(f"process {own} of {count} stopped, {shortest(error)!r}")
        raise
    finally:
        team.over.set()
        signal.signal(signal.SIGINT, before)


def _of_group(error: RuntimeError) -> bool:
    """Whether the group's own messages failed, as where the other end is gone."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def shortest(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


def rank() -> int:
    """The number of this process among those that torchrun started, from 0."""
    return _number("RANK", 0)


def here() -> tuple[int, int]:
    """The number of this process on this machine, and how many torchrun started on it."""
    return _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1)


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

    One thread alone talks to the store, for the store may not answer; another one watches it.
    Processes share their work, or all do the same ``in_step``."""

    def __init__(self, rank: int = 0, count: int = 1, store: Any = None):
        self.rank, self.count = rank, count
        self.over = threading.Event()
        self.in_step = False
        self._store = store
        self._why: str | None = None  # another process was lost
        self._last_word = ""
        self._meetings = self._met = 0
        self._word, self._words = "", [""] * count  # of this meeting, and of the last
        self._claims: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._granted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._work = self._work_of_others = 0.0
        self._work_told = 0
        self._answered = time.monotonic()
        self._heart = threading.Thread(target=self._live, daemon=True)

    @property
    def shares(self) -> bool:
        """Whether each of several processes does a part of the work."""
        return self.count > 1 and not self.in_step

    def form_group(self) -> None:
        """Let the processes compute together from now on: torch.distributed's default group."""
        self.in_step = True  # before: it waits for the others, as every step does
        store = torch.distributed.PrefixStore("group", self._store.clone())
        torch.distributed.init_process_group(store=store, rank=self.rank, world_size=self.count)

    def start(self) -> None:
        self._heart.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self, word: str = "") -> list[str]:
        """Wait until every process has come to this point; the word that each brings, by rank."""
        if self.count == 1:
            return [word]
        self._word = word
        self._meetings += 1
        while self._met < self._meetings:
            time.sleep(0.05)
            progress.current().advance()
        return self._words

    def claim(self, task: str) -> bool:
        """Whether this process is the first that claims the task, so that it is to do it. In step,
        all do it, as soon as all have come to it."""
        if self.in_step:
            torch.distributed.barrier()
        if not self.shares:
            return True
        self._claims.put(task)
        while True:
            with suppress(queue.Empty):
                return self._granted.get(timeout=0.05)  # in between, an interrupt is heard

    def worked(self, more: float) -> float:
        """Count more work of this process; how much all have done, as far as is known."""
        self._work += more
        return self._work + self._work_of_others

    def end(self, word: str) -> None:
        """Tell the others that this process is done, or by a word why it failed."""
        self._last_word = word
        self.over.set()
        self._claims.put(None)
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
            while self._serve_claims(BEAT) and self._why is None:
                self._store.add(f"beat {self.rank}", 1)
                if said < self._meetings:
                    said = self._meetings
                    self._store.set(f"word {said} {self.rank}", self._word)
                    self._store.add(f"met {said}", 1)
                if said > self._met and self._store.add(f"met {said}", 0) >= self.count:
                    names = [f"word {said} {rank}" for rank in range(self.count)]
                    self._words = [self._store.get(name).decode() for name in names]
                    self._met = said
                self._tell_work()
                self._why = self._missed(heard)
                self._answered = time.monotonic()
            if self._why is None:
                self._leave()
        except RuntimeError:  # who is done does not care that the store is gone
            self._why = None if self.over.is_set() else "the first process or its machine has ended"

    def _serve_claims(self, seconds: float) -> bool:
        """Answer the claims of so many seconds; whether this process still goes on."""
        until = time.monotonic() + seconds
        with suppress(queue.Empty):
            while not self.over.is_set() and (left := until - time.monotonic()) > 0:
                if (task := self._claims.get(timeout=left)) is not None:
                    self._granted.put(self._store.add(f"claimed {task}", 1) == 1)
        return not self.over.is_set()

    def _tell_work(self) -> None:
        """Add this process's work to that of all, and hear how much the others have done."""
        work = int(self._work)
        of_all = self._store.add("work", work - self._work_told)
        self._work_told, self._work_of_others = work, of_all - work

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
                if self.in_step and not self.over.wait(STUCK):  # it waits for the group's messages
                    print(f"recycle: {self._why}: {GO_ON}", file=sys.stderr, flush=True)
                    os._exit(2)
                return
