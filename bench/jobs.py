"""Jobs of a run, and how they share its time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.protocol import Row

ROOT = Path(__file__).parent.parent
SHARE = 0.6  # of a job's part of the time that is left; the rest pays for its checks and warm-up
_SAID = 100  # letters of a command's last line


@dataclass(frozen=True)
class Job:
    """``measure(seconds)`` gives rows; ``seconds`` is what it takes where time is no object.
    ``whole`` is a job that another program does, which may take all the time that is left."""

    name: str
    measure: Callable[[float], list[Row]]
    seconds: float
    whole: bool = False


def in_time(jobs: Sequence[Job], limit: float) -> Iterator[tuple[Job, float | None]]:
    """Each job with the seconds that it may measure, None where the time is used up. A job that is
    begun is finished: the limit is met by measuring fewer rounds, then by leaving jobs out."""
    started = time.monotonic()
    for i, job in enumerate(jobs):
        left = limit - (time.monotonic() - started)
        if left <= 0:
            yield job, None
        elif job.whole:
            yield job, min(job.seconds, left)
        else:
            yield job, min(job.seconds, SHARE * left / (len(jobs) - i))


def command(group: str, case: str, arguments: Sequence[str], seconds: float) -> list[Row]:
    """A row of what another Python program took: python -m ARGUMENTS, in the checkout's root."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        code, lines = done.returncode, done.stdout.splitlines() or ["nothing"]
    except subprocess.TimeoutExpired:
        code, lines = 124, [f"stopped after {seconds:.0f} s, the time that was left"]
    said = " ".join(lines[-1].split())[:_SAID]
    taken = round(time.monotonic() - started, 1)
    return [
        {"group": group, "case": case, "arm": "ours", "seconds": taken, "exit": code, "said": said}
    ]
