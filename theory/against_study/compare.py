"""The theory against a finished two-hop study: `python -m theory study RUN`.

The theorems (theorems.py) are put to every such run, on a checkpoint too. What follows is about the
toy world, whose answers have types.

The one-layer theory says what a sum of the two hops' experts answers to a direct two-hop question:
the bridge, and among the second hop's answers nothing but chance. A study's transformer has more
layers, attention, a gated MLP, names of two words, and a base that has read direct questions with
cities for answers. Each prediction is compared as it stands, once over all answers and once among
the answers of one type; the overlaps of the MLP's features stand beside J(theta).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora import Mix, attach, detach, using
from models import Tokenizer, Transformer
from recycle.plan import STANDARD_BASE
from recycle.show.run_files import load_metrics
from recycle.studies import Study
from recycle.studies import open_study as open_run
from recycle.train.experts import open_adapter
from tasks import English, TwoHop
from tasks.two_hop import NEW
from theory.against_study.answers import Answers, Names, Trained
from theory.against_study.overlaps import PAIRS, clean, overlaps
from theory.against_study.reasons import CITY, PERSON, namesake_share, people_mass
from theory.against_study.theorems import HOPS, sets_of, theorems
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

Counts = Mapping[str, Mapping[str, Any]]  # form of question -> how often each outcome was seen


@dataclass(frozen=True)
class Prediction:
    """One number of the theory, and what the trained model shows."""

    name: str
    predicted: float
    observed: float


@dataclass(frozen=True)
class Comparison:
    """All that one seed's model shows on the questions of one set."""

    set: str
    predictions: list[Prediction]
    types: dict[str, dict[str, float]]  # by model
    reasons: dict[str, float]
    overlaps: dict[str, Tensor]  # by pair of prompts, (layers, 4)


def compare(run: Path) -> dict[str, Any]:
    """Everything that `show` prints and draws, as plain numbers: means over the seeds of the run.

    Raises:
        TheoryError: the folder is no finished run.
    """
    study = open_study(run)
    try:
        content = {
            "torch": torch.__version__.split("+")[0],
            "seeds": list(study.config.seeds),
            "sets": sets_of(study),
            "theorems": theorems(study, run),
        }
    except (ValueError, KeyError, OSError, ZeroDivisionError) as error:
        reason = " ".join(map(str, error.args))
        raise TheoryError(f"{run}: {type(error).__name__}: {reason}") from error
    if study.config.name != TwoHop.name:
        return content
    return {**content, **by_type(study, run)}


def by_type(study: Study, run: Path) -> dict[str, Any]:
    """What the one-layer theory says of the answers of either type, in the toy world."""
    config, sets = study.config, new_facts(study)
    try:
        counts = read_counts(study, run)
        seen = [
            comparison
            for seed in config.seeds
            for comparison in compare_seed(study, run, seed, sets, counts)
        ]
    except (ValueError, KeyError, OSError, ZeroDivisionError) as error:
        reason = " ".join(map(str, error.args))
        raise TheoryError(f"{run}: {type(error).__name__}: {reason}") from error
    by_set = {s: [p for c in seen if c.set == s for p in c.predictions] for s in sets}
    return {
        "sets": sets,
        "questions": config.task.triples,
        "predictions": [prediction_json(name, by_set) for name in names_of(by_set)],
        "types": [
            {"set": s, "model": model} | means([c.types[model] for c in seen if c.set == s])
            for s in sets
            for model in MODELS
        ],
        "reasons": means([c.reasons for c in seen]),
        "overlaps": [
            {"layer": layer, "pair": pair, "clean": steady(clean(*PAIRS[pair]))}
            | dict(zip(("cos", "J", "cos J", "measured"), map(steady, row.tolist()), strict=True))
            for pair in PAIRS
            for layer, row in enumerate(torch.stack([c.overlaps[pair] for c in seen]).mean(0))
        ],
    }


def open_study(run: Path) -> Study:
    """
    Raises:
        TheoryError: the folder is no run of a two-hop study, or the run is not finished.
    """
    try:
        study = open_run(run)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TheoryError(str(error)) from error
    config = study.config
    if config.name not in (TwoHop.name, English.name):
        raise TheoryError(f"{run} is a study of {config.name}: the theory speaks of two-hop")
    toy = config.name == TwoHop.name
    if not sets_of(study):
        raise TheoryError(f"{run} has no set of two new hops: the theory speaks of those")
    needed = ["metrics.jsonl"]
    for seed in config.seeds:
        folder = f"seed-{seed}/standard"
        experts = [f"{role}-{s}" for s in sets_of(study) for role in (ROLES if toy else HOPS)]
        needed += [f"{folder}/model.pt"] * toy
        needed += [f"{folder}/library/{expert}/adapter_config.json" for expert in experts]
    if missing := [name for name in needed if not (run / name).is_file()]:
        raise TheoryError(
            f"{run} is not finished, {missing[0]} is missing: "
            f"python -m recycle study {study.design.name} --run {run} goes on with it"
        )
    return study


def check_types(run: Path) -> None:
    """
    Raises:
        TheoryError: the run's answers have no types to draw.
    """
    if open_study(run).config.name != TwoHop.name:
        raise TheoryError(f"{run} has no picture: only answers in the toy world have types")


def new_facts(study: Study) -> list[str]:
    """The sets whose facts the base has not read: the theory's case."""
    return [group for group in study.config.groups if group in NEW]


def read_counts(study: Study, run: Path) -> dict[tuple[int, str, str], dict[str, Any]]:
    """(seed, set, form) -> the study's own counts for the plain sum of both hops' experts, greedily
    decoded."""
    rows = load_metrics(study, run).where(library="2-combination", method="plain_sum")
    return {(row.key.seed, row.key.group, row.form): row.to_json() for row in rows}


def compare_seed(
    study: Study,
    run: Path,
    seed: int,
    sets: Sequence[str],
    counts: Mapping[tuple[int, str, str], Mapping[str, Any]],
) -> Iterable[Comparison]:
    """One comparison for each set, with the base and the experts of this seed."""
    base = study.open_base(seed, STANDARD_BASE, run)
    task, model, tokenizer = base.world, base.model, base.tokenizer
    assert isinstance(task, TwoHop) and isinstance(model, Transformer)
    assert isinstance(tokenizer, Tokenizer)
    trained = Trained(model, tokenizer, Names.of(task, tokenizer))
    for s in sets:
        forms = {form: row for (at, group, form), row in counts.items() if (at, group) == (seed, s)}
        attach(model, {role: open_adapter(base.folder, f"{role}-{s}") for role in ROLES})
        yield compare_set(trained, task, s, forms)
        detach(model)


def compare_set(trained: Trained, task: TwoHop, s: str, counts: Counts) -> Comparison:
    """The set's questions, asked of the base with the set's experts attached."""
    model, triples = trained.model, task.sets[s]

    def ask(name: str, form: str) -> Answers:
        weights = MODELS[name]
        with using(model, Mix(weights) if weights else None):
            return trained.answers(triples, form)

    direct = {name: ask(name, "direct") for name in MODELS}
    own = {
        form: {name: ask(name, form) for name in ("base", expert)}
        for form, expert in (("hop1", "hop 1 expert"), ("hop2", "hop 2 expert"))
    }
    base_share, chance = namesake_share(trained, task, triples)
    with using(model, Mix(MODELS["sum"])):
        reasons = {pattern: people_mass(trained, triples, pattern) for pattern in (PERSON, CITY)}
        sum_share, _ = namesake_share(trained, task, triples)
        pairs = overlaps(model, trained.tokenizer, triples)
    shares = {"namesake base": base_share, "namesake sum": sum_share, "namesake chance": chance}
    return Comparison(
        s,
        predictions(counts, direct, own),
        types={name: type_row(answers) for name, answers in direct.items()},
        reasons=reasons | shares,
        overlaps=pairs,
    )


def first_hop_leak() -> float:
    """The bridge's lead on "x R1 R2" over its lead on "x R1" in the clean geometry:
    (0.673 - 0.390) / (1 - 0.609) = 0.72."""
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
    counts: Counts, direct: Mapping[str, Answers], own: Mapping[str, Mapping[str, Answers]]
) -> list[Prediction]:
    """All predictions for one set and seed.

    `direct` has the answers to direct questions by model, `own[hop]` those to the hop's own
    questions by model.
    """

    def share(form: str, outcome: str) -> float:
        return counts[form][outcome] / counts[form]["n"]

    def added(where: Mapping[str, Answers], model: str, kind: str) -> float:
        """What a model adds to the base's lead of the own name."""
        return getattr(where[model], kind).lead() - getattr(where["base"], kind).lead()

    hops = share("hop1", "right"), share("hop2", "right")
    both = direct["sum"]
    bridge = added(direct, "hop 1 expert", "bridges")
    bridge_asked = added(own["hop1"], "hop 1 expert", "bridges")
    city = added(direct, "hop 2 expert", "cities")
    city_asked = added(own["hop2"], "hop 2 expert", "cities")
    halved = added(direct, "mean", "bridges") / added(direct, "sum", "bridges")
    rows = [
        ("one-hop recall after the sum, both hops", 1.0, sum(hops) / 2),
        (
            "bridge written out: right answers (product of recalls)",
            hops[0] * hops[1],
            share("cot", "right"),
        ),
        ("direct question: right answers", 0.0, share("direct", "right")),
        ("direct question: the bridge is answered", 1.0, share("direct", "bridge")),
        ("  among the set's bridges, its own is on top", 1.0, both.bridges.top()),
        ("  with people and cities at equal mass, the bridge is answered", 1.0, both.ungated),
        (
            "  among the set's cities, the right one is on top",
            1 / both.cities.logp.shape[1],
            both.cities.top(),
        ),
        (
            "bridge's lead here over its lead on its own question",
            first_hop_leak(),
            bridge / bridge_asked,
        ),
        ("right city's lead here over its lead on its own question", 0.0, city / city_asked),
        ("bridge's lead under the mean over that under the sum", 0.5, halved),
    ]
    return [Prediction(*row) for row in rows]


def type_row(answers: Answers) -> dict[str, float]:
    """What a model's direct answers say of each type: mean log-probabilities, masses, and the order
    within the type."""
    return {
        "right": answers.cities.mine(),
        "other cities": answers.cities.others(),
        "best city": answers.best_city,
        "bridge": answers.bridges.mine(),
        "other bridges": answers.bridges.others(),
        "cities mass": answers.cities_mass,
        "people mass": answers.people_mass,
        "bridge rank": answers.bridges.rank(),
        "bridge on top": answers.bridges.top(),
        "right city on top": answers.cities.top(),
    }


def names_of(by_set: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """The names of the predictions, each once, in their order."""
    return list(dict.fromkeys(p.name for rows in by_set.values() for p in rows))


def prediction_json(name: str, by_set: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    """One prediction over all sets and seeds; it stands if it is within AGREES of the mean."""
    rows = {s: [p for p in seen if p.name == name] for s, seen in by_set.items()}
    observed = {s: mean(p.observed for p in seen) for s, seen in rows.items()}
    predicted = mean(p.predicted for seen in rows.values() for p in seen)
    overall = mean(observed.values())
    return {
        "name": name,
        "predicted": steady(predicted),
        "observed": steady(overall),
        "sets": {s: steady(value) for s, value in observed.items()},
        "verdict": "as predicted" if abs(overall - predicted) <= AGREES else "differs",
    }


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of rows with the same keys: each key's mean, steady."""
    return {key: steady(mean(row[key] for row in rows)) for key in rows[0]}


def steady(value: float) -> float:
    """Four digits after the point: the rounding noise of another machine leaves no trace."""
    return round(value, 4) + 0.0
