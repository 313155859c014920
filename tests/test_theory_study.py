"""The theory against a trained study: planted log-probabilities, and one real study in
miniature."""

import json
import shutil

import pytest
import torch

from lora import lora_layers
from models import Tokenizer, Transformer, TransformerConfig
from recycle.__main__ import main as recycle
from recycle.plan import STANDARD_BASE
from recycle.studies import open_study as open_run
from tasks import TwoHop, TwoHopConfig
from theory import __main__ as cli
from theory.against_study import compare, show
from theory.against_study import interaction as acting
from theory.against_study.answers import Choice, Names, Trained, judged, name_logprobs, tokens
from theory.against_study.overlaps import PAIRS, clean, keys, overlaps
from theory.against_study.reasons import CITY, PERSON, namesake_cities, people_mass
from theory.claims import leakage

# One set, one layer and adapters on one matrix.
TINY = [
    "groups=F",
    "parts=main",
    "task.people=40",
    "task.cities=10",
    "task.triples=6",
    "task.set_cities=3",
    "model.width=32",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=2",
    "model.hidden=48",
    "pretrain.steps=30",
    "pretrain.rows=16",
    "train.steps=10",
    "train.rows=4",
    "train.lr=1e-2",
    "adapter.rank=4",
    "adapter.patterns=down_proj",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished study; its report is not drawn, for pictures take longer than the study itself."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = [word for pair in TINY for word in ("--set", pair)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.page.page", lambda *_: "<html>")
        assert recycle(["study", "two-hop", "--quiet", *arguments, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def recorded(run):
    """What `theory study` writes for the run."""
    path = run.parent / "study.json"
    assert cli.main(["study", str(run), "--json", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def world():
    """An untrained transformer and a small world."""
    task = TwoHop(TwoHopConfig(people=40, cities=10, triples=6, set_cities=3), 0)
    tokenizer = Tokenizer.from_words(task.words())
    config = TransformerConfig(width=32, layers=2, heads=2, kv_heads=2, hidden=48)
    model = Transformer(config, len(tokenizer), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.embed_tokens.weight *= 20  # far from uniform
    return task, tokenizer, model, Names.of(task, tokenizer)


def test_choice_on_planted_logits():
    logp = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -5.0, -3.0]], dtype=torch.float64)
    choice = Choice(logp, torch.tensor([0, 1]))
    assert choice.top() == 0.5 and choice.rank() == 2.0
    assert choice.mine() == -3.0 and choice.others() == -2.25 and choice.lead() == -0.75


def test_bridge_on_top_of_its_type_is_not_the_answer(world):
    """Planted: every question's bridge leads the people by far, and every wrong city leads every
    bridge."""
    task, _, _, names = world
    triples = task.sets["F"]
    logp = torch.where(names.people, -20.0, -4.0).double().repeat(len(triples), 1)
    rows = torch.arange(len(triples))
    logp[rows, names.find([t.b for t in triples])] = -8.0
    logp[rows, names.find([t.c for t in triples])] = -5.0
    answers = judged(logp, names, triples)
    bridges, cities = answers.bridges, answers.cities
    assert bridges.top() == 1.0 and bridges.rank() == 1.0
    assert bridges.lead() == pytest.approx(12)
    assert cities.top() == 0.0 and cities.rank() == 3.0
    assert cities.lead() == pytest.approx(-1)
    assert answers.best_city == -4.0 and answers.people_mass < 0.001 < answers.cities_mass
    assert answers.ungated == 1.0  # all the people's mass is on one name, the cities' is spread
    logp[rows, names.find([t.b for t in triples])] = -20.0
    assert judged(logp, names, triples).ungated == 0.0


def test_name_logprobs_are_the_models_own(world):
    """As from whole texts without a cache, and no more than certainty in all."""
    task, tokenizer, model, names = world
    texts = tokens(tokenizer, [t.question("direct").prompt for t in task.sets["H"][:2]])
    found = name_logprobs(model, texts, names.words)
    assert found.exp().sum(1).max() <= 1 + 1e-9
    for q, text in enumerate(texts.tolist()):
        for n in (0, 17, len(names.words) - 1):
            word = names.words[n].tolist()
            with torch.no_grad():
                logits = model(torch.tensor([text + word]))[0].double().log_softmax(-1)
            assert float(found[q, n]) == pytest.approx(
                float(logits[-3, word[0]] + logits[-2, word[1]]), abs=1e-4
            )


def test_names_are_all_names_once(world):
    task, tokenizer, _, names = world
    assert len(names.index) == len(names.words) == int(names.people.sum()) + len(task._all_cities)
    for name in (task.people[3], task.sets["F"][0].b, task.sets["F"][0].c):
        assert tokenizer.decode(names.words[names.index[name]].tolist()) == name
    assert bool(names.people[names.index[task.sets["F"][0].b]])
    assert not bool(names.people[names.index[task.sets["F"][0].c]])


def test_keys_are_what_down_proj_reads(world):
    task, tokenizer, model, _ = world
    inputs, features = keys(model, tokenizer, [t.question("hop2").prompt for t in task.sets["F"]])
    for layer, block in enumerate(model.layers):
        with torch.no_grad():
            wanted = block.mlp(inputs[layer].float())
            assert torch.allclose(block.mlp.down_proj(features[layer].float()), wanted, atol=1e-6)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_overlaps_are_cosines_and_kernels_of_them(world):
    task, tokenizer, model, _ = world
    found = overlaps(model, tokenizer, task.sets["F"])
    assert set(found) == set(PAIRS)
    for values in found.values():
        assert values.shape == (2, 4) and values.abs().max() <= 1 + 1e-9
    # Every prompt ends alike, and the first layer has seen little else.
    first = found["other entity, same relation"]
    assert first[0, 0] > 0.5 and torch.allclose(first[:, 2], first[:, 0] * first[:, 1], atol=0.1)


def test_namesakes_are_read_people_who_share_a_word(world):
    task, *_ = world
    first, second = task.exposed[0].split()
    assert task.triple(task.exposed[0]).c in namesake_cities(task, f"{first} nobody")
    assert task.triple(task.exposed[0]).c in namesake_cities(task, f"nobody {second}")
    assert namesake_cities(task, f"{second} {first}") == set()  # each word in its own place
    assert not set(task.held_out) & set(task.exposed)


def test_one_word_is_all_that_differs_between_the_questions(world):
    task, tokenizer, model, names = world
    assert CITY.split() == [*PERSON.split()[:-3], "live", *PERSON.split()[-3:]]
    trained = Trained(model, tokenizer, names)
    masses = [people_mass(trained, task.sets["F"], pattern) for pattern in (PERSON, CITY)]
    assert all(0 < mass < 1 for mass in masses) and masses[0] != masses[1]


def test_clean_angles_are_the_theorys():
    for name in ("other entity, same relation", "other entity, other relation"):
        assert clean(*PAIRS[name]) == pytest.approx(
            leakage.overlap(*leakage.PAIRS[name])
        )  # equal norms
    assert clean(*PAIRS["two-hop prompt on its first hop"]) == pytest.approx(
        0.6728 / 1.5**0.5, abs=1e-4
    )
    assert compare.first_hop_leak() == pytest.approx((0.6728 - 0.3898) / (1 - 0.6090), abs=1e-3)


def test_study_says_what_the_run_counted(run, recorded):
    content = json.loads(recorded.read_text())
    assert content["sets"] == ["F"] and content["seeds"] == [0]
    counts = compare.read_counts(compare.open_study(run), run)
    rows = {row["name"].strip(): row for row in content["predictions"]}
    for name, outcome in (
        ("direct question: right answers", "right"),
        ("direct question: the bridge is answered", "bridge"),
    ):
        row = counts[0, "F", "direct"]
        assert rows[name]["sets"]["F"] == pytest.approx(row[outcome] / row["n"], abs=1e-4)
    for row in content["predictions"]:
        assert row["observed"] == row["sets"]["F"]
        assert row["verdict"] == (
            "as predicted" if abs(row["observed"] - row["predicted"]) <= 0.1 else "differs"
        )
    assert rows["among the set's cities, the right one is on top"]["predicted"] == pytest.approx(
        1 / 3, abs=1e-4
    )


def test_a_prediction_is_judged_by_the_mean_over_sets():
    lines = {
        "F": [compare.Prediction("it", 1.0, 0.8)],
        "H": [compare.Prediction("it", 0.9, 1.0), compare.Prediction("it", 0.9, 1.0)],
    }
    row = compare.prediction_json("it", lines)
    assert row["sets"] == {"F": 0.8, "H": 1.0}
    assert row["observed"] == 0.9 and row["verdict"] == "as predicted"
    lines["F"] = [compare.Prediction("it", 1.0, 0.5)]
    assert compare.prediction_json("it", lines)["verdict"] == "differs"


def test_types_are_probabilities_and_ranks(recorded):
    content = json.loads(recorded.read_text())
    assert len(content["types"]) == len(compare.MODELS) and len(content["overlaps"]) == len(PAIRS)
    for row in content["types"]:
        assert 0 < row["cities mass"] + row["people mass"] <= 1
        assert 1 <= row["bridge rank"] <= 6 and 0 <= row["bridge on top"] <= 1
        assert max(row["right"], row["other cities"]) <= row["best city"] <= 0


def test_the_record_names_no_machine_and_is_the_same_again(run, recorded, tmp_path):
    again = tmp_path / "study.json"
    assert cli.main(["study", str(run), "--json", str(again)]) == 0
    assert again.read_text() == recorded.read_text()
    assert str(run.parent) not in again.read_text()
    command = json.loads(again.read_text())["command"]
    assert command == "python -m theory study tiny --json study.json"


def test_the_run_is_left_as_it_was(run):
    model = open_run(run).open_base(0, STANDARD_BASE, run).model
    assert not lora_layers(model)
    assert sorted(p.name for p in run.iterdir()) == [
        "claims.json",
        "config.json",
        "env.json",
        "metrics.jsonl",
        "minutes.json",
        "report.html",
        "seed-0",
    ]


def test_table_prints_the_recorded_study_too(recorded, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(show, "STUDY", recorded)
    monkeypatch.setattr(acting, "RECORDED", tmp_path / "no interaction.json")
    assert cli.main(["table"]) == 0
    claims, _, found = capsys.readouterr().out.partition("\n## Against the study's transformer")
    assert claims.count("\n| `") == len(cli.ALL)
    table = [line for line in found.splitlines() if line.startswith("|")]
    assert len(table) == 2 * 2 + len(json.loads(recorded.read_text())["predictions"])
    assert found.count("Predictions that predict") == 2
    assert all(line.count("|") == table[0].count("|") for line in table)
    monkeypatch.setattr(show, "STUDY", tmp_path / "none.json")
    assert cli.main(["table"]) == 0
    assert "study's transformer" not in capsys.readouterr().out


def test_picture_is_drawn(recorded, tmp_path):
    pytest.importorskip("matplotlib")
    path = show.draw(json.loads(recorded.read_text()), tmp_path / "new" / "study.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def failing(capsys, *arguments):
    assert cli.main([str(a) for a in arguments]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("theory: ") and err.count("\n") == 1
    return err


def test_bad_folders_are_one_line(capsys, run, tmp_path):
    assert "is no run folder" in failing(capsys, "study", tmp_path / "none")
    assert "is no run folder" in failing(capsys, "study", tmp_path)
    assert "required: RUN" in failing(capsys, "study")
    assert "unrecognized arguments" in failing(capsys, "study", run, run)
    assert "ends in .png" in failing(capsys, "study", run, "--plot", tmp_path / "x.pdf")
    assert "cannot be written" in failing(
        capsys, "study", run, "--json", tmp_path / "none" / "x.json"
    )


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "seed-0/standard/model.pt",
        "seed-0/standard/library/hop2-F/adapter_config.json",
    ],
)
def test_unfinished_run_names_what_is_missing(capsys, run, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).unlink()
    assert f"{name} is missing: python -m recycle study two-hop --run" in failing(
        capsys, "study", copy
    )


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "seed-0/standard/model.pt"])
def test_damaged_run_is_one_line(capsys, run, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).write_text("{")
    failing(capsys, "study", copy)


# The interaction of two experts -------------------------------------------------------------------


def test_a_run_is_measured_and_its_table_recorded(run, tmp_path, capsys, monkeypatch):
    """Its experts stand on the only down_proj, so they must not interact."""
    file = tmp_path / "interaction.json"
    capsys.readouterr()
    assert cli.main(["interaction", str(run), "--json", str(file)]) == 0
    said = capsys.readouterr().out
    content = json.loads(file.read_text())
    assert content["command"].startswith("python -m theory interaction tiny")
    rows = content["interactions"]
    assert rows
    assert all(row["share"] < 1e-4 for row in rows)
    assert all(row["library"] in said for row in rows)
    monkeypatch.setattr(acting, "RECORDED", file)
    assert cli.main(["table"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| standard")]
    assert len(table) == len(rows)


def test_what_cannot_be_measured_is_said(run, tmp_path, capsys):
    capsys.readouterr()
    assert cli.main(["interaction", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "groups": ["K"]}))
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    of_bases = [line for line in lines if json.loads(line)["group"] == "base"]
    (copy / "metrics.jsonl").write_text("".join(of_bases))
    assert cli.main(["interaction", str(copy)]) == 2
    assert "no library of two experts" in capsys.readouterr().err
