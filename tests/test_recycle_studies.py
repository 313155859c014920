"""The designs of the studies.

They name experts and methods that exist, their names are those of the recorded results, and a new
method changes no verdict.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lora import Mix
from recycle.decide.metrics import Metrics, Row
from recycle.measure.cell import asked_together
from recycle.plan import STANDARD_RECIPE, Cell, Expert, Key, Library, Recipe
from recycle.reuse.method import Stage
from recycle.reuse.methods import BY_NAME, EVERY, METHODS, PLAIN_SUM
from recycle.show.figures import curve_title
from recycle.show.record import recorded_metrics
from recycle.show.terminal import terminal
from recycle.studies import DESIGNS, Study, two_hop_claims, word_math_claims
from recycle.studies.check import check
from recycle.studies.composition import COMPOSITION
from recycle.studies.two_hop import LIBRARIES, REGIMES, TWO_HOP
from recycle.study import jobs
from recycle.train.settings import change

RESULTS = Path(__file__).parent.parent / "recycle" / "results"
SMALL = {
    "two-hop": {"task.people": 60, "task.cities": 12, "task.triples": 8, "task.set_cities": 4},
    "history": {},
    "composition": {},
    "two-hop-english": {"task.triples": 4, "task.answers": 2},
    "word-math": {"task.problems": 40, "task.expert_problems": 10, "task.questions": 4},
    "gsm-english": {"task.expert_problems": 10, "task.questions": 4},
    "languages": {"task.lists": 40, "task.expert_lists": 10, "task.questions": 6},
    "operations": {"task.problems": 40, "task.expert_problems": 10, "task.questions": 6},
}


@pytest.fixture(scope="module", params=DESIGNS)
def design(request):
    return DESIGNS[request.param]


def recorded(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_every_librarys_experts_can_be_trained(design):
    world = design.world(change(design.default, SMALL[design.name]).task, 0)
    for library in design.libraries:
        for expert in library.experts:
            assert world.expert_texts(expert.reads, expert.group)
            assert expert.base == library.base
            change(change(design.default, library.base.settings), expert.recipe.settings)
        assert library.part in design.parts and library.group in (*world.groups, "base")
        assert not library.context or world.in_context(library.group)


def test_no_two_libraries_or_experts_share_a_place(design):
    cells = [Cell(0, library, m).path for library in design.libraries for m in library.methods]
    assert len(set(cells)) == len(cells)
    experts = {expert for library in design.libraries for expert in library.experts}
    assert len({(expert.base.name, expert.slug) for expert in experts}) == len(experts)


def test_every_preset_is_a_study(design):
    for name in design.presets:
        study = Study(design, design.preset(name))
        assert study.cells and study.config.name == design.name


LONG_TO_BUILD = ("word-math", "operations")
CHECKED = [
    pytest.param(name, preset, marks=[pytest.mark.slow] if name in LONG_TO_BUILD else [])
    for name, each in DESIGNS.items()
    if not name.endswith("english")  # these ask a checkpoint first
    for preset in each.presets
]


@pytest.mark.parametrize("name, preset", CHECKED)
def test_every_preset_may_begin(name, preset):
    """What is checked before hours of work finds nothing: questions, examples, rows, layers."""
    config = DESIGNS[name].preset(preset)
    check(Study(DESIGNS[name], replace(config, seeds=config.seeds[:1])))


def test_claims_name_methods_and_libraries_that_exist():
    for rules, design in ((two_hop_claims, "two-hop"), (word_math_claims, "word-math")):
        methods, libraries = set(BY_NAME), {library.name for library in DESIGNS[design].libraries}
        families = ("MAIN", "MERGED_OR_ROUTED", "WITH_ORACLE", "BLIND", "BETWEEN", "PAPERS")
        for name in families:
            assert set(getattr(rules, name, ())) <= methods, name
        for name in ("MATCHED", "MISMATCHED", "SINGLES"):
            assert set(getattr(rules, name, ())) <= libraries, name
    names = {library.name for library in LIBRARIES}
    constants = (two_hop_claims.PAIR, two_hop_claims.TRIPLE, two_hop_claims.NO_CHAINS)
    assert {*constants, two_hop_claims.DISJOINT, *two_hop_claims.OTHER_ENTITIES.values()} <= names
    bases = {library.base.name for library in LIBRARIES}
    assert set(two_hop_claims.DOSES.values()) <= bases


def assert_all_found(rows, study):
    """Every recorded key is a key of today, in the same order; today may have more."""
    recorded_keys = list(dict.fromkeys(row.key for row in rows))
    known = set(recorded_keys)
    assert [cell.key for cell in study.cells if cell.key in known] == recorded_keys


@pytest.mark.parametrize(
    "record, preset", [("two-hop-full", "full"), ("two-hop-regimes", "growth")]
)
def test_the_recorded_rows_have_todays_names(record, preset):
    """The same study, run now, finds the cells of the recorded runs at their places."""
    rows = recorded_metrics(recorded(record)).rows
    config = TWO_HOP.preset(preset)
    if record == "two-hop-regimes":
        config = replace(config, parts=("regimes",))
    assert_all_found(rows, Study(TWO_HOP, config))


def test_the_recorded_word_problems_have_todays_names():
    design = DESIGNS["word-math"]
    rows = recorded_metrics(recorded("word-math-laptop")).rows
    assert_all_found(rows, Study(design, design.preset("laptop")))


def test_slugs_stay_as_they_were():
    """Runs on users' disks have their files and seeds by these names."""
    library = Library("3-combination, other entities", "F", (), (PLAIN_SUM,))
    path = "seed-3/standard/cells/F.3-combination,other_entities.plain_sum.json"
    assert Cell(3, library, PLAIN_SUM).path == path
    assert Cell(3, library, PLAIN_SUM).key == Key(3, "standard", "F", library.name, "plain_sum")
    assert Expert("hop1", "F").slug == "hop1-F"
    assert Expert("joint", "H", Recipe("full")).slug == "joint-H-full"
    slugs = {(e.base.name, e.slug) for library in LIBRARIES for e in library.experts}
    assert slugs >= {
        ("standard", "hop2-other-F"),
        ("standard", "joint-plain-H"),
        ("standard", "hop1-F-unpreserved"),
        ("standard", "joint-F-rank-32"),
        ("standard", "hop2-F-rank_16-preservation_50-lr_30e-4"),
        ("dose-0", "hop1-R"),
        ("layers-4", "joint-F"),
    }
    cells = {Cell(0, x, m).path for x in LIBRARIES for m in x.methods}
    assert cells >= {
        "seed-0/standard/cells/base.none.alone.json",
        "seed-0/standard/cells/H.2-combination,chains_for_hop_1.arrow_top1.json",
        "seed-0/standard/cells/F.none,facts_in_context.alone.json",
        "seed-0/standard/cells/F.combination,experts_16.oracle.json",
        "seed-0/width-96/cells/F.2-combination,width_96.plain_sum.json",
        "seed-0/standard/cells/F.2-combination,rank_4-preservation_0-lr_30e-4.arrow.json",
    }


def test_a_title_is_no_identity():
    one = next(library for library in LIBRARIES if library.name == "2-combination")
    renamed = replace(one, title="both hops")
    assert str(renamed) == "both hops" and str(one) == "2-combination"
    assert Cell(0, renamed, PLAIN_SUM).path == Cell(0, one, PLAIN_SUM).path


@pytest.mark.parametrize("record", ["two-hop-full", "word-math-laptop"])
def test_a_new_method_decides_nothing(record):
    """A merge that answers everything is measured beside the others, in every library. No verdict,
    no correction and no control changes."""
    result = recorded(record)
    design, metrics = DESIGNS[result["task"]], recorded_metrics(result)
    study = Study(design, design.default)
    before = study.judge(metrics)
    merge = replace(PLAIN_SUM, name="miracle")
    planted = []
    for row in metrics.where(method=PLAIN_SUM.name):
        all_right = {outcome: row.n * (outcome == "right") for outcome in row.outcomes}
        key = row.key._replace(method=merge.name)
        planted.append(replace(row, key=key, outcomes=all_right))
    assert planted and merge not in METHODS
    assert study.judge(Metrics([*metrics.rows, *planted])) == before


def test_the_recorded_verdicts_are_those_of_todays_rules():
    for record in ("two-hop-full", "word-math-laptop"):
        kept = recorded(record)
        design = DESIGNS[kept["task"]]
        study = Study(design, design.default)
        controls, claims = study.judge(recorded_metrics(kept))
        assert [c.id for c in controls] == [c["id"] for c in kept["controls"]]
        assert [c.value for c in controls] == pytest.approx([c["value"] for c in kept["controls"]])
        said = {c.id: (str(c.verdict), c.evidence) for c in claims}
        recorded_claims = {c["id"]: (c["verdict"], c["evidence"]) for c in kept["claims"]}
        assert {c: said[c] for c in recorded_claims} == recorded_claims


def test_every_axis_of_growth_has_three_values_and_the_standard_one():
    axes: dict[str, set[int]] = {}
    for library in LIBRARIES:
        for axis, value in library.axes.items():
            axes.setdefault(axis, set()).add(value)
    config = TWO_HOP.default
    standard = {
        "rank": config.adapter.rank,
        "experts": 2,
        "crowd": 2,
        "facts": config.task.triples,
        "width": config.model.width,
        "layers": config.model.layers,
    }
    assert axes.keys() == standard.keys()
    assert all(len(values) >= 3 and standard[axis] in values for axis, values in axes.items())


def test_the_grid_of_regimes_passes_through_the_standard_recipe():
    same = [r.name for r in REGIMES if change(TWO_HOP.default, r.settings) == TWO_HOP.default]
    assert same == ["rank_16-preservation_50-lr_30e-4"]


def test_training_curves_of_different_recipes_have_different_legends():
    recipes = {e.recipe for library in LIBRARIES for e in library.experts}
    titles = {curve_title(Expert("hop1", "F", recipe)) for recipe in recipes}
    assert len(titles) == len(recipes) > 10
    assert curve_title(Expert("hop1", "F", STANDARD_RECIPE)) == "hop1"


def test_every_method_is_asked_of_the_libraries_that_a_study_is_about():
    for library in TWO_HOP.libraries:
        if library.inside:
            assert library.methods == EVERY


def test_a_studys_jobs_are_its_bases_passes_cells_and_looks(tmp_path):
    full = Study(TWO_HOP, change(TWO_HOP.preset("full"), {"parts": TWO_HOP.parts}))
    made = {job.name: job for job in jobs(full, tmp_path)}
    passes = [name for _, spec in full.bases for name in full.passes(spec.name)]
    looks = len(full.opened) * len(full.config.seeds)
    texts = [name for name in made if "/preserved/" in name]
    assert len(made) == len(full.bases) + len(passes) + len(full.cells) + looks + len(texts)
    assert len(texts) == len(full.config.seeds)  # of one base, for its part "answers"
    for job in made.values():
        assert all(made[name].stage < job.stage for name in job.needs) and not job.is_made()


def test_a_jobs_cost_is_that_of_its_own_settings(tmp_path):
    full = Study(COMPOSITION, COMPOSITION.preset("full"))
    costs = {job.name: job.cost for job in jobs(full, tmp_path)}
    steps = {change(full.config, spec.settings).pretrain.steps for _, spec in full.bases}
    assert len(steps) > 1
    for seed, spec in full.bases:
        own = change(full.config, spec.settings)
        assert costs[f"seed-{seed}/{spec.name}/base"] == own.pretrain.steps * own.pretrain.tokens
        for name, together in full.passes(spec.name).items():
            train = change(own, together[0].recipe.settings).train
            cost = len(together) * train.steps * train.tokens
            assert costs[f"seed-{seed}/{spec.name}/passes/{name}"] == cost


def test_a_cell_costs_what_it_asks_and_what_its_method_learns(tmp_path):
    study = Study(TWO_HOP, change(TWO_HOP.preset("methods"), {"groups": ("F",), "seeds": (1,)}))
    costs = {job.name: job.cost for job in jobs(study, tmp_path)}
    of = {m: costs[f"seed-1/standard/cells/F.2-combination.{m}"] for m in BY_NAME if m in PRICED}
    world = study.world(1)
    asked = [q for form in world.forms for q in world.questions("F", form)]
    words = [len(q.completion.split()) + 1 for q in asked]
    assert of["plain_sum"] == of["arrow"] == pytest.approx(4.6 * sum(words))
    text = sum(words) + sum(len(q.prompt.split()) for q in asked)
    learned = [of[name] - of["plain_sum"] for name in ("lorahub_5", "lorahub_20")]
    assert learned == pytest.approx([220 * n * text / len(asked) for n in (5, 20)])
    assert of["phatgoose"] > of["plain_sum"]


PRICED = ("plain_sum", "arrow", "lorahub_5", "lorahub_20", "phatgoose")


def test_forms_stand_in_one_batch_where_the_adapters_act_alike():
    one, other = Mix({"a": 1.0}), Mix({"a": 1.0})
    stages = {
        "x": (Stage(one),),
        "y": (Stage(other),),
        "z": (Stage(one),),
        "cot": (Stage(one, "."), Stage(one)),
    }
    assert asked_together(stages) == [["x", "z"], ["y"], ["cot"]]


def test_the_columns_of_plain_tables_stand_apart(design):
    forms = design.world.forms
    rows = [
        Row(Key(0, "standard", design.world.groups[0], "none", "alone"), form, 1, {"right": 1})
        for form in forms
    ]
    text = terminal(Study(design, design.default), Metrics(rows), ([], []))
    head, line = text.split("\n")[2:4]
    assert head.split() == list(forms)
    assert line.split()[-len(forms) :] == ["1.00"] * len(forms)
