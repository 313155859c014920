"""Studies on another device and in another number format: everything follows the base, what is
drawn stays the same, and what cannot be is refused in one line."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

import lora.base
import recycle.train.base as bases
from lora import load_adapter, save_adapter
from models import decode, rows_at_once
from models.causal import CausalLM, CheckpointConfig
from models.checkpoint import _check_memory
from models.families import CheckpointError
from models.transformer import Transformer
from recycle.__main__ import in_one_line, main
from recycle.measure import inside
from recycle.measure.ask import ask
from recycle.plan import STANDARD_BASE, Expert, Library, Recipe
from recycle.reuse.methods import ALONE, BY_NAME
from recycle.run.device import choose_device, on_one_device
from recycle.run.disk import read_json
from recycle.run.environment import describe_environment, note_environment
from recycle.run.folder import base_folder
from recycle.run.processes import Team
from recycle.studies import DESIGNS, Study
from recycle.studies.english import ENGLISH
from recycle.studies.gsm_english import GSM_ENGLISH
from recycle.studies.two_hop import TWO_HOP
from recycle.study import run
from recycle.train.experts import train_experts
from recycle.train.settings import assignments, change
from tests.elsewhere import DEVICE, Mixed, second_device
from tests.tiny import SETTINGS, go_on, make_run

ENVIRONMENT = describe_environment({"setting": "default"}, "study")

# Which device ------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_a_device_is_named_as_torch_names_it(two_gpus, monkeypatch):
    names = ("cpu", "cuda", "cuda:0", "cuda:1")
    chosen = [torch.device(name) for name in ("cpu", "cuda:0", "cuda:0", "cuda:1")]
    assert [choose_device(name) for name in names] == chosen
    for place, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", place)  # the processes of a machine take turns
        assert choose_device("cuda") == torch.device("cuda", index)
        assert choose_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ValueError, match="LOCAL_RANK = 'x'"):
        choose_device("cuda")


def test_processes_of_a_machine_are_counted_by_device(two_gpus):
    counts = [on_one_device(name, 5) for name in ("cpu", "cuda", "cuda:1")]
    assert counts == [5, 3, 5]


@pytest.mark.parametrize("name", ["quantum", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:1", "mps"])
def test_another_name_of_a_device_is_refused(name):
    with pytest.raises(ValueError, match=f"--device '{name}': choose cpu, cuda, or one of several"):
        choose_device(name)


def test_a_device_beyond_the_last_is_refused(two_gpus, monkeypatch):
    with pytest.raises(ValueError, match="--device cuda:2: this machine has cuda:0 to cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--device cuda:1: this machine has only cuda:0, choose"):
        choose_device("cuda:1")


@pytest.mark.parametrize("built, missing", [(False, "built without CUDA"), (True, "its driver")])
def test_cuda_where_there_is_none_is_refused_before_any_work(
    monkeypatch, capsys, tmp_path, built, missing
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    folder = tmp_path / "run"
    assert main(["study", "two-hop", "--device", "cuda", "--run", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert missing in line and "or take --device cpu" in line and not folder.exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "study two-hop --dtype fp16",
            "no choice 'fp16', did you mean 'bf16': choose from fp32, bf16",
        ),
        ("study two-hop --device quantum", "--device 'quantum': choose cpu, cuda"),
        ("study two-hop --set dtype=bf16", "--set dtype: no key"),
        ("eval {run} hop1-F --group F --device cuda:x", "--device 'cuda:x'"),
        ("train {run} --reads hop1 --group F --dtype fp8", "no choice 'fp8'"),
    ],
)
def test_bad_options_are_refused_in_one_line(words, message, tmp_path, capsys):
    assert main(words.format(run=tmp_path).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())


def test_a_device_without_room_is_named_with_the_remedy(monkeypatch):
    shape = CheckpointConfig(width=64, heads=2, kv_heads=2, head_width=32, context=16)
    planned = CausalLM.planned(shape, 100, torch.float32)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    with pytest.raises(CheckpointError, match=r"free on cuda:0: .*--dtype bf16"):
        _check_memory(planned, torch.device("cuda:0"), "m/config.json")
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "not enough memory on the device" in in_one_line(error)
    assert in_one_line(RuntimeError("a fault of ours")) is None


def test_the_environment_names_the_device(tmp_path):
    for device in ("cpu", "cuda (A)", "cuda (B)", "cuda (A)"):
        note_environment(tmp_path, {**ENVIRONMENT, "device": device})
    older = {key: value for key, value in ENVIRONMENT.items() if key != "device"}
    note_environment(tmp_path, older)  # from when there was only the CPU
    noted = read_json(tmp_path / "env.json")
    assert [each.get("device", "cpu") for each in noted] == ["cuda (B)", "cuda (A)", "cpu"]


# Everything follows the base ----------------------------------------------------------------------

ASKED = "plain_sum arrow arrow_factors oracle random_router random_adapters spectr centroid".split()
FULL = Recipe("full", {"adapter.kind": "full"})


def small_study():
    """Every kind of cell in miniature: routers, controls, full fine-tuning, a context, a look
    inside."""
    hop1, hop2 = Expert("hop1", "F"), Expert("hop2", "F")
    answers = Expert("hop1", "F", Recipe("answers", {"adapter.preserve_from": "answers"}))
    libraries = (
        Library("none", "base"),
        Library("none, in context", "F", context=True),
        *(Library(each.reads, "F", (each,)) for each in (hop1, hop2)),
        Library("answers", "F", (answers,), (ALONE,)),
        Library("full", "F", (Expert("hop1", "F", FULL),), (ALONE,)),
        Library("2-combination", "F", (hop1, hop2), tuple(BY_NAME[n] for n in ASKED), inside=True),
    )
    design = replace(TWO_HOP, libraries=libraries, parts=("main",))
    chosen = {**assignments(SETTINGS), "parts": "main", "task.people": 42, "train.length": 32}
    study = Study(design, change(design.default, chosen))
    study.world(0).longest = 4  # no answer of such a base is worth more tokens
    return study


def asked_once(model, blocks, score):
    """A look inside asks the same questions once for each block: here once in all."""
    return {**dict.fromkeys(("all", "none"), score()), "without": {}, "only": {}}


def results(folder):
    """A run's rows, its look inside, and where its base lies."""
    home = base_folder(folder, 0, "standard")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, read_json(home / "inside" / "F.json"), home


def close(one, other, tolerance):
    """The same JSON up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return all(close(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other, [tolerance] * len(one)))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=tolerance)
    return one == other


def compare_devices(study, here, there, gates=1e-3):
    """Two runs of one study: the same cells, nearly the same numbers, files that name no device."""
    (rows, looked, home), (others, seen, elsewhere) = (results(f) for f in (here, there))
    named = ("seed", "base", "group", "library", "method", "form", "n")
    assert [[row[k] for k in named] for row in rows] == [[row[k] for k in named] for row in others]
    assert len(rows) == len(study.cells) * len(study.world(0).forms)
    same = sum(row["items"] == other["items"] for row, other in zip(rows, others, strict=True))
    assert same >= 0.9 * len(rows)  # barely trained, bases hesitate between answers
    assert close(looked["interference"], seen["interference"], 1e-2)
    assert close(looked["routing"], seen["routing"], gates)
    for name in ("model.pt", "library/hop1-F-full/model.pt"):
        weights, theirs = (torch.load(folder / name) for folder in (home, elsewhere))
        for key, value in weights.items():
            assert theirs[key].device.type == "cpu"
            torch.testing.assert_close(theirs[key], value, atol=1e-3, rtol=0)
    own, other = (load_adapter(folder / "library" / "hop2-F") for folder in (home, elsewhere))
    assert own.base and own.paths == other.paths
    for path in own.paths:
        torch.testing.assert_close(other.delta(path), own.delta(path), atol=1e-3, rtol=0)


def test_the_second_device_refuses_to_mix(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("a real device is there: pytest -m gpu")
    with second_device(monkeypatch):
        there = torch.ones(2, 3, device="cuda")
        assert there.device == DEVICE == (there @ there.mT)[:1].device
        assert (there + 1).sum().item() == 12 and (there.cpu() + torch.ones(3)).device.type == "cpu"
        for mixing in (
            lambda: there + torch.ones(3),
            lambda: torch.cat([there, torch.ones(2, 3)]),
            lambda: there[:, torch.tensor([0])],
            lambda: torch.nn.Linear(3, 4)(there),
            lambda: there.numpy(),
        ):
            with pytest.raises(Mixed, match="tensors of the CPU|no numpy array"):
                mixing()
    assert torch.ones(2).device.type == "cpu"


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_study_on_another_device_mixes_nothing(monkeypatch, tmp_path, dtype):
    if torch.cuda.is_available():
        pytest.skip("a real device is there: pytest -m gpu")
    study = small_study()
    study = replace(study, config=replace(study.config, dtype=dtype))
    monkeypatch.setattr(inside, "knock_out", asked_once)
    with second_device(monkeypatch):
        run(study, tmp_path / "there", ENVIRONMENT, Team(), quiet=True, device="cuda:0")
        base = study.open_base(0, STANDARD_BASE, tmp_path / "there", "cuda:0")
        assert {p.device for p in base.model.parameters()} == {DEVICE}
    run(study, tmp_path / "here", ENVIRONMENT, Team(), quiet=True)
    if dtype == "fp32":
        compare_devices(study, tmp_path / "here", tmp_path / "there")


@pytest.mark.gpu
def test_a_study_on_cuda_gives_the_cells_of_the_cpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    study = small_study()
    for name in ("cpu", "cuda"):
        run(study, tmp_path / name, ENVIRONMENT, Team(), quiet=True, device=choose_device(name))
    compare_devices(study, tmp_path / "cpu", tmp_path / "cuda", gates=1e-2)


@pytest.mark.gpu
def test_a_run_goes_on_on_another_device(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = make_run(tmp_path / "run")
    for path in (folder / "seed-0" / "standard" / "cells").glob("F.*.json"):
        path.unlink()
    words = ["study", "two-hop", "--quiet", "--matmul=default", "--run", str(folder)]
    assert main([*words, "--device=cuda", *(f"--set={each}" for each in SETTINGS)]) == 0
    devices = [each["device"] for each in read_json(folder / "env.json")]
    assert devices[0] == "cpu" and devices[1].startswith("cuda (")


# The number format --------------------------------------------------------------------------------

READ = {
    **assignments(SETTINGS),
    "pretrain.steps": 100,
    "pretrain.rows": 16,
    "pretrain.lr": 1e-2,
    "train.steps": 60,
    "train.rows": 8,
    "train.lr": 1e-2,
    "adapter.preservation": 0.0,
}


def as_checkpoint(base, dtype):
    """The base's weights in the model that holds checkpoints, in a number format."""
    shape = {name: getattr(base.config.model, name) for name in vars(base.config.model)}
    shape |= {"head_width": base.model.config.head_width, "eps": base.model.config.eps}
    model = CausalLM(CheckpointConfig(**shape), len(base.tokenizer)).to(dtype).eval()
    model.model.load_state_dict(base.model.state_dict())
    return replace(base, model=model)


def test_fp32_adapters_learn_on_a_bf16_checkpoint_as_on_one_in_fp32(tmp_path):
    study = Study(TWO_HOP, change(TWO_HOP.default, {**READ, "parts": "main"}))
    toy = study.open_base(0, STANDARD_BASE, tmp_path)
    losses, said = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        base = as_checkpoint(toy, dtype)
        before = {name: p.clone() for name, p in base.model.named_parameters()}
        trained = train_experts(base, [Expert("hop1", "F"), Expert("hop2", "F")])
        for name, parameter in base.model.named_parameters():
            assert parameter.dtype == dtype and torch.equal(parameter, before[name])
        for slug, adapter in trained.experts.items():
            save_adapter(adapter, tmp_path / slug)
            kept = load_adapter(tmp_path / slug)
            assert {f.dtype for pair in kept.factors.values() for f in pair} == {torch.float32}
        losses[dtype] = [sum(point["loss"]) for point in trained.curve]
        lora.attach(base.model, trained.experts)
        with lora.using(base.model, lora.Mix({"hop1-F": 1.0})):
            said[dtype] = ask(base, base.world.questions("F", "hop1"))
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)
    assert losses[torch.bfloat16][-1] < 0.5 * losses[torch.bfloat16][0]
    pairs = list(zip(*said.values(), strict=True))
    assert sum(one.completion == other.completion for one, other in pairs) >= 0.8 * len(pairs)


def test_a_study_in_bf16_saves_fp32_adapters_and_says_what_it_is(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["study", "two-hop", "--quiet", "--matmul=default", "--run", str(folder)]
    words += [f"--set={setting}" for setting in SETTINGS]
    assert main([*words, "--dtype=bf16"]) == 0
    config, home = read_json(folder / "config.json"), folder / "seed-0" / "standard"
    assert config["dtype"] == "bf16"
    head = json.loads((home / "made.jsonl").read_text().splitlines()[0])
    assert head["configuration"]["dtype"] == "bf16"
    weights = torch.load(home / "model.pt")
    assert {value.dtype for value in weights.values()} == {torch.float32}  # pretrained so
    for path in home.glob("library/*"):
        factors = [f for pair in load_adapter(path).factors.values() for f in pair]
        assert {factor.dtype for factor in factors} == {torch.float32}
    capsys.readouterr()
    assert main(words) == 2  # the same run in fp32
    (line,) = capsys.readouterr().err.splitlines()
    assert "dtype differs" in line
    name = next(home.glob("library/*")).name
    assert main(["eval", str(folder), name, "--group=F", "--matmul=default", "--dtype=fp32"]) == 0


def test_a_run_of_before_the_number_format_goes_on(tmp_path):
    folder = make_run(tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    config = read_json(folder / "config.json")
    assert config.pop("dtype") == "fp32"
    (folder / "config.json").write_text(json.dumps(config))
    made = folder / "seed-0" / "standard" / "made.jsonl"
    first, *lines = made.read_text().splitlines()
    head = json.loads(first)
    del head["configuration"]["dtype"]
    made.write_text("\n".join([json.dumps(head), *lines, ""]))
    go_on(folder)
    assert (folder / "metrics.jsonl").read_bytes() == before


# What a checkpoint may cost -----------------------------------------------------------------------

SMOLLM2 = CheckpointConfig(
    width=576, layers=30, heads=9, kv_heads=3, hidden=1536, head_width=64, context=8192
)


def test_toys_decode_512_questions_together():
    """Whatever they are asked: the batch is part of what the recorded numbers rest on."""
    shapes = set()
    for design in DESIGNS.values():
        for preset in () if design in (ENGLISH, GSM_ENGLISH) else design.presets:
            study = Study(design, design.preset(preset))
            shapes |= {change(study.config, spec.settings).model for _, spec in study.bases}
    for shape in shapes:
        with torch.device("meta"):
            model = Transformer(shape, 1000)
        assert rows_at_once(model, shape.context) == 512
    assert len(shapes) > 5


def test_the_batch_of_a_checkpoint_fits_its_memory():
    model = CausalLM.planned(SMOLLM2, 49152, torch.float32)
    token, logits = 30 * 2 * 3 * 64 * 4, 49152 * 4  # bytes; 46 KB a token
    for length in (20, 60, 250):
        rows = rows_at_once(model, length)
        assert rows * (length * token + logits) <= decode.MEMORY
        assert (rows + 1) * (length * token + logits) > decode.MEMORY
    half = CausalLM.planned(SMOLLM2, 49152, torch.bfloat16)
    assert rows_at_once(half, 60) in (2 * rows_at_once(model, 60), 2 * rows_at_once(model, 60) + 1)
    assert rows_at_once(model, 10**6) == 1


def test_a_small_memory_changes_the_batches_and_no_answer(tmp_path, monkeypatch):
    base = small_study().open_base(0, STANDARD_BASE, tmp_path)
    questions = base.world.questions("base", "direct")[:7]
    whole = [answer.completion for answer in ask(base, questions)]
    asked, greedy = [], decode.decode

    def watched(model, prompts, *rest):
        asked.append(len(prompts))
        return greedy(model, prompts, *rest)

    monkeypatch.setattr(decode, "decode", watched)
    length = max(len(q.prompt.split()) for q in questions) + 1 + base.world.longest + 1
    config = base.model.config
    row = 4 * (length * 2 * config.layers * config.width + len(base.tokenizer))
    monkeypatch.setattr(decode, "MEMORY", 3 * row)
    assert [answer.completion for answer in ask(base, questions)] == whole
    assert asked == [3, 3, 1]


class Letters:
    """A tokenizer of single letters, for a checkpoint without files."""

    pad, boundary = 0, 1

    def __len__(self):
        return 130

    def encode(self, text):
        return [ord(c) % 128 + 2 for c in text]

    def encode_completion(self, text):
        return self.encode(f" {text}")

    def decode(self, ids):
        ids = ids[: ids.index(1)] if 1 in ids else ids
        return "".join(chr(i - 2) for i in ids if i > 1)

    def token(self, index):
        return self.decode([index])


def test_the_weights_of_a_checkpoint_are_hashed_once(tmp_path, monkeypatch):
    """However many experts are trained, cells asked, and seeds and merges there are."""
    shape = CheckpointConfig(width=16, layers=1, heads=2, kv_heads=2, hidden=16, head_width=8)
    shape = replace(shape, context=512)
    loaded, hashed = Counter(), Counter()

    def load(source, **how):
        loaded[source] += 1
        return CausalLM(shape, len(Letters())).to(how["dtype"]).eval(), Letters()

    def counted(model, compute=lora.base._computed):
        hashed[type(model)] += 1
        return compute(model)

    monkeypatch.setattr(bases, "load_checkpoint", load)
    monkeypatch.setattr(lora.base, "_computed", counted)
    bases.load_base.cache_clear()
    pair = (Expert("hop1", "H"), Expert("hop2", "H"))
    methods = tuple(BY_NAME[name] for name in ("plain_sum", "arrow", "centroid"))
    libraries = (Library("none", "H"), Library("2-combination", "H", pair, methods))
    design = replace(ENGLISH, libraries=libraries, parts=("main",))
    settings = {
        **{"task.triples": 2, "task.answers": 2, "groups": "H", "seeds": "0,1"},
        **{"model.context": 512, "train.steps": 2, "train.rows": 2, "train.length": 300},
        **{"adapter.rank": 2, "adapter.preservation": 0.0},
    }
    config = replace(change(design.default, settings), checkpoint="x", dtype="bf16")
    study = Study(design, config)
    for seed in config.seeds:
        study.world(seed).longest = 3  # such a base says nothing worth more tokens
    run(study, tmp_path / "run", ENVIRONMENT, Team(), quiet=True)
    bases.load_base.cache_clear()
    assert loaded == {"x": 1} and hashed == {CausalLM: 1}
    assert len(list((tmp_path / "run").glob("seed-*/standard/cells/*.json"))) == 8
