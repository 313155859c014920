"""The jobs of a study, and how processes share them.

A job makes one file or several of a base's folder, needs what other jobs make, and is done once, by
whichever process is free. So no process waits while there is something that it could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycle.run import progress
from recycle.run.disk import look_again
from recycle.run.processes import Team

PAUSE = 0.5  # seconds between two looks at what others have made


@dataclass(frozen=True)
class Job:
    """``name`` tells it from all other jobs, and ``needs`` are names. ``place`` is what a process
    has to open for it, any value that has a hash. Jobs of a lower ``stage`` go first, and of one
    stage the dearest by ``cost`` in tokens."""

    name: str
    place: Any
    stage: int
    cost: float
    needs: frozenset[str]
    is_made: Callable[[], bool]
    make: Callable[[], object]


def work_through(jobs: Sequence[Job], team: Team, folder: Path) -> None:
    """Do these jobs, which make what a folder lacks, together with the other processes, which were
    given the same ones. Returns when all are done.

    A process alone finishes what it has opened before it opens something else. Of several that
    share the jobs, each takes what others wait for: the lowest stage of all that can be done."""
    left = sorted(jobs, key=lambda job: (job.stage, -job.cost))  # nobody is known to have claimed
    unmade = {job.name: job for job in jobs}
    opened = None

    def order(job: Job) -> tuple[bool | int, ...]:
        other = job.place != opened
        return (job.stage, other) if team.shares else (other, job.stage)

    while left:
        needed = {name for job in left for name in job.needs & unmade.keys()}
        for name in needed:
            if unmade[name].is_made():
                del unmade[name]
        ready = sorted((job for job in left if not job.needs & unmade.keys()), key=order)
        claimed = None
        while ready and claimed is None:
            job = ready.pop(0)
            left.remove(job)
            claimed = job if team.claim(job.name) else None
        if claimed is not None:
            claimed.make()
            opened = claimed.place
            unmade.pop(claimed.name, None)
        elif left:
            progress.current().say("waiting for what other processes make")
            progress.current().advance()
            time.sleep(PAUSE)
            look_again(folder)
    progress.current().say("waiting for the other processes")
    team.wait()
    if team.count > 1:
        look_again(folder)
