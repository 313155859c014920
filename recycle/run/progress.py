"""One line that says how far a whole study is and how long the rest of it will take.

Work is counted in tokens: a training step counts the tokens that it reads, and what is done without
training as the tokens that take as long (recycle/measure/work.py). Progress is a matter of the
process, as logging is, so nobody hands it on. Where several processes share a study, the line of
the first counts what all of them have done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

CELL_TOKENS = 5_000  # a small cell of the quick two-hop study, two threads
_LINE = "{desc}: {percentage:3.0f} % |{bar}| {remaining} left{postfix}"


class Progress:
    """A line on the terminal, or nothing where it is silent. ``count`` is told of every piece of
    work that is done, and says how much it is by now."""

    def __init__(
        self, work: float = 0.0, silent: bool = True, count: Callable[[float], float] | None = None
    ):
        self._done, self._count = 0.0, count or self._add
        self._before = self._count(0.0)
        # smoothing=0: what is left is told from the whole rate so far, not from the last seconds.
        self._bar = tqdm(
            total=max(work, 1.0),
            disable=silent,
            bar_format=_LINE,
            smoothing=0,
            dynamic_ncols=True,
            mininterval=0.5,
            delay=1.0,  # a command that fails at once has shown no line
        )

    def say(self, doing: str, detail: str = "") -> None:
        """What is being done now, beside the share that is done."""
        self._bar.set_description_str(doing, refresh=False)
        self._bar.set_postfix_str(detail, refresh=False)

    def advance(self, work: float = 0.0) -> None:
        done = min(self._count(work) - self._before, self._bar.total)
        self._bar.update(max(0.0, done - self._bar.n))

    def _add(self, work: float) -> float:
        self._done += work
        return self._done

    def drop(self, work: float) -> None:
        """So much of the work was done before, by a run that was stopped. The line of another
        process hears of it as of work that is done."""
        if self._bar.disable:
            self.advance(work)
        else:
            self._bar.total = max(1.0, self._bar.total - work)

    def close(self) -> None:
        self._bar.close()


_current = Progress()


def current() -> Progress:
    """The line of whatever command runs now."""
    return _current


@contextmanager
def showing(
    work: float, silent: bool, count: Callable[[float], float] | None = None
) -> Iterator[None]:
    """Show a line for so much work inside the block. With ``count``, of several processes."""
    global _current
    before, _current = _current, Progress(work, silent, count)
    try:
        yield
    finally:
        _current.close()
        _current = before
