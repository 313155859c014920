"""The studies: one file each, with its libraries, presets, controls and claims."""

from __future__ import annotations

from pathlib import Path

from recycle.run.folder import check_ledgers, read_config
from recycle.studies.composition import COMPOSITION
from recycle.studies.design import Design, Study, rebuilt
from recycle.studies.english import ENGLISH
from recycle.studies.gsm_english import GSM_ENGLISH
from recycle.studies.history import HISTORY
from recycle.studies.languages import LANGUAGES
from recycle.studies.operations import OPERATIONS
from recycle.studies.two_hop import TWO_HOP
from recycle.studies.word_math import WORD_MATH

DESIGNS: dict[str, Design] = {
    design.name: design
    for design in (
        TWO_HOP,
        COMPOSITION,
        WORD_MATH,
        HISTORY,
        ENGLISH,
        OPERATIONS,
        LANGUAGES,
        GSM_ENGLISH,
    )
}

__all__ = ["DESIGNS", "Design", "Study", "open_study"]


def open_study(run: Path) -> Study:
    """The study that a run folder was made by, with the seeds that passed their gates. Raises
    ValueError where it is no run."""
    study = rebuilt(DESIGNS, read_config(run), f"{run}/config.json")
    check_ledgers(study.config, run)
    return study.settled(run)
