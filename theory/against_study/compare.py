"""The theory against a finished two-hop study: `python -m theory study RUN`.

The one-layer theory says what a sum of the two hops' experts answers to a direct two-hop question:
the bridge, and among the second hop's answers nothing but chance. A study's transformer has more
layers, attention, a gated MLP, names of two words, and a base that has read direct questions with
cities for answers. Each prediction is set against it as it stands, once over all answers and once
among the answers of one type, with the overlaps of the MLP's features beside J(theta).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora import Mix, attach, detach, load_adapter, using
from models import Tokenizer, Transformer
from recycle.__main__ import open_config
from recycle.config import StudyConfig
from recycle.experts import make_base
from tasks import TwoHop
from tasks.two_hop_libraries import NEW
from theory.against_study.answers import Answers, Names, answers
from theory.against_study.overlaps import PAIRS, clean, overlaps
from theory.against_study.reasons import CITY, PERSON, namesake_share, people_mass
from theory.claim import TheoryError
from theory.claims import leakage

MODELS: dict[str, dict[str, float]] = {
    "base": {},
    "hop 1 expert": {"hop1": 1.0},
    "hop 2 expert": {"hop2": 1.0},
    "sum": {"hop1": 1.0, "hop2": 1.0},
    "mean": {"hop1": 0.5, "hop2": 0.5},
    "joint": {"joint": 1.0},
}
ROLES = ("hop1", "hop2", "joint")
AGREES = 0.1  # a prediction stands where the mean over sets and seeds is this near


@dataclass(frozen=True)
class Prediction:
    """One number of the theory, what the trained model shows, and for which set and seed."""

    name: str
    predicted: float
    observed: float


def open_study(run: Path) -> StudyConfig:
    """
    Raises:
        TheoryError: the folder is no run, or the run is not finished.
    """
    try:
        config = open_config(run)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TheoryError(str(error)) from error
    if config.name != TwoHop.name:
        raise TheoryError(f"{run} is a study of {config.name}: the theory speaks of two-hop")
    needed = ["metrics.jsonl"]
    for folder in (f"seed-{seed}/standard" for seed in config.seeds):
        needed.append(f"{folder}/model.pt")
        needed += [
            f"{folder}/library/{role}-{s}/adapter_config.json"
            for s in new_facts(config)
            for role in ROLES
        ]
    if missing := [name for name in needed if not (run / name).is_file()]:
        raise TheoryError(
            f"{run} is not finished, {missing[0]} is missing: python -m recycle study two-hop --run {run} goes on with it"
        )
    return config


def new_facts(config: StudyConfig) -> list[str]:
    """The groups whose facts the base has not read: the theory's case."""
    return [group for group in config.groups if group in NEW]


def read_counts(run: Path) -> dict[tuple[int, str, str], dict[str, Any]]:
    """(seed, set, form) -> the study's own counts for the plain sum of both hops' experts, greedily
    decoded."""
    rows = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    chosen = [
        r
        for r in rows
        if (r["base"], r["library"], r["method"]) == ("standard", "2-combination", "plain_sum")
    ]
    return {(r["seed"], r["group"], r["form"]): r for r in chosen}


def first_hop_leak() -> float:
    """The bridge's lead on "x R1 R2" over its lead on "x R1": (0.673 - 0.390) / (1 - 0.609) = 0.72,
    clean geometry."""
    own, other, same = (
        leakage.overlap(*leakage.PAIRS[name])
        for name in (
            "two-hop prompt on its first hop",
            "two-hop prompt on another first hop",
            "other entity, same relation",
        )
    )
    return (own - other) / (1 - same)


def predictions(
    counts: dict[str, dict[str, Any]],
    direct: dict[str, Answers],
    own: dict[str, dict[str, Answers]],
) -> Iterator[Prediction]:
    """For one set and seed: `counts` by form, `direct` by model, `own[hop]` the hop's own questions
    by model."""

    def share(form: str, outcome: str) -> float:
        return counts[form][outcome] / counts[form]["n"]

    def added(model: str, where: dict[str, Answers], kind: str) -> float:
        """What a model adds to the base's lead of the own name."""
        return getattr(where[model], kind).lead() - getattr(where["base"], kind).lead()

    hops = share("hop1", "right"), share("hop2", "right")
    both = direct["sum"]
    yield Prediction("one-hop recall after the sum, both hops", 1.0, sum(hops) / 2)
    yield Prediction(
        "bridge written out: right answers (product of recalls)",
        hops[0] * hops[1],
        share("cot", "right"),
    )
    yield Prediction("direct question: right answers", 0.0, share("direct", "right"))
    yield Prediction("direct question: the bridge is answered", 1.0, share("direct", "bridge"))
    yield Prediction("  among the set's bridges, its own is on top", 1.0, both.bridges.top())
    yield Prediction(
        "  with people and cities at equal mass, the bridge is answered", 1.0, both.ungated
    )
    yield Prediction(
        "  among the set's cities, the right one is on top",
        1 / both.cities.logp.shape[1],
        both.cities.top(),
    )
    yield Prediction(
        "bridge's lead here over its lead on its own question",
        first_hop_leak(),
        added("hop 1 expert", direct, "bridges") / added("hop 1 expert", own["hop1"], "bridges"),
    )
    yield Prediction(
        "right city's lead here over its lead on its own question",
        0.0,
        added("hop 2 expert", direct, "cities") / added("hop 2 expert", own["hop2"], "cities"),
    )
    yield Prediction(
        "bridge's lead under the mean over that under the sum",
        0.5,
        added("mean", direct, "bridges") / added("sum", direct, "bridges"),
    )


def type_row(found: Answers) -> dict[str, float]:
    """Where a model's direct answers lie: mean log-probabilities by type, masses, and the order
    within each type."""
    return {
        "right": found.cities.mine(),
        "other cities": found.cities.others(),
        "best city": found.best_city,
        "bridge": found.bridges.mine(),
        "other bridges": found.bridges.others(),
        "cities mass": found.cities_mass,
        "people mass": found.people_mass,
        "bridge rank": found.bridges.rank(),
        "bridge on top": found.bridges.top(),
        "right city on top": found.cities.top(),
    }


def compare(run: Path) -> dict[str, Any]:
    """Everything `study_report` shows, as plain numbers; means over the seeds of the run.

    Raises:
        TheoryError: the folder is no finished run.
    """
    config = open_study(run)
    sets = new_facts(config)
    lines: dict[str, list[Prediction]] = {s: [] for s in sets}
    types: dict[tuple[str, str], list[dict[str, float]]] = {}
    reasons: list[dict[str, float]] = []
    pairs: dict[str, list[torch.Tensor]] = {name: [] for name in PAIRS}
    try:
        counts = read_counts(run)
        for seed in config.seeds:
            folder = run / f"seed-{seed}" / "standard"
            task, model, tokenizer = make_base(config, seed, "standard", run, quiet=True)
            assert isinstance(task, TwoHop)
            names = Names.of(task, tokenizer)
            for s in sets:
                attach(
                    model,
                    {role: load_adapter(folder / "library" / f"{role}-{s}") for role in ROLES},
                )
                direct, own = all_answers(model, tokenizer, names, task, s)
                forms = {
                    form: row
                    for (at, group, form), row in counts.items()
                    if (at, group) == (seed, s)
                }
                lines[s] += predictions(forms, direct, own)
                for name, found in direct.items():
                    types.setdefault((s, name), []).append(type_row(found))
                base_share, chance = namesake_share(model, tokenizer, names, task, task.sets[s])
                with using(model, Mix(MODELS["sum"])):
                    asked = {
                        pattern: people_mass(model, tokenizer, names, task.sets[s], pattern)
                        for pattern in (PERSON, CITY)
                    }
                    sum_share, _ = namesake_share(model, tokenizer, names, task, task.sets[s])
                    reasons.append(
                        asked
                        | {
                            "namesake base": base_share,
                            "namesake sum": sum_share,
                            "namesake chance": chance,
                        }
                    )
                    for name, values in overlaps(model, tokenizer, task.sets[s]).items():
                        pairs[name].append(values)
                detach(model)
    except (ValueError, KeyError, OSError, ZeroDivisionError) as error:
        raise TheoryError(
            f"{run}: {type(error).__name__}: {' '.join(map(str, error.args))}"
        ) from error
    return {
        "torch": torch.__version__.split("+")[0],
        "seeds": list(config.seeds),
        "sets": sets,
        "questions": config.task.triples,
        "predictions": [prediction_json(sets, lines, name) for name in names_of(lines)],
        "types": [
            {"set": s, "model": name} | {key: steady(mean(r[key] for r in rows)) for key in rows[0]}
            for (s, name), rows in types.items()
        ],
        "reasons": {key: steady(mean(r[key] for r in reasons)) for key in reasons[0]},
        "overlaps": [
            {"layer": layer, "pair": name, "clean": steady(clean(*PAIRS[name]))}
            | dict(zip(("cos", "J", "cos J", "measured"), map(steady, row.tolist()), strict=True))
            for name, values in pairs.items()
            for layer, row in enumerate(torch.stack(values).mean(0))
        ],
    }


def all_answers(
    model: Transformer, tokenizer: Tokenizer, names: Names, task: TwoHop, s: str
) -> tuple[dict[str, Answers], dict[str, dict[str, Answers]]]:
    """Direct answers by model; and each hop's own questions, by the base and by the hop's
    expert."""

    def ask(model_name: str, form: str) -> Answers:
        weights = MODELS[model_name]
        with using(model, Mix(weights) if weights else None):
            return answers(model, tokenizer, names, task.sets[s], form)

    direct = {name: ask(name, "direct") for name in MODELS}
    own = {
        form: {name: ask(name, form) for name in ("base", expert)}
        for form, expert in (("hop1", "hop 1 expert"), ("hop2", "hop 2 expert"))
    }
    return direct, own


def names_of(lines: dict[str, list[Prediction]]) -> list[str]:
    return list(dict.fromkeys(p.name for found in lines.values() for p in found))


def prediction_json(
    sets: Sequence[str], lines: dict[str, list[Prediction]], name: str
) -> dict[str, Any]:
    observed = {s: mean(p.observed for p in lines[s] if p.name == name) for s in sets}
    predicted, seen = (
        mean(p.predicted for s in sets for p in lines[s] if p.name == name),
        mean(observed.values()),
    )
    return {
        "name": name,
        "predicted": steady(predicted),
        "observed": steady(seen),
        "sets": {s: steady(value) for s, value in observed.items()},
        "verdict": "as predicted" if abs(seen - predicted) <= AGREES else "differs",
    }


def mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def steady(value: float) -> float:
    """Four digits after the point: rounding noise of another machine leaves no trace."""
    return round(value, 4) + 0.0
