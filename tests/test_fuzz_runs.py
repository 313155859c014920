"""A finished run folder, damaged in thousands of ways: `report` opens it, `study` goes on with it.

    python -m pytest -m slow tests/test_fuzz_runs.py -s

Each time there is either one line that names the file, or the very results of the sound run. Every
input is drawn from one seed; the counts are printed.
"""

import contextlib
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from recycle.__main__ import main
from tests.fuzz import Counts, fault_of_message, json_bytes, mutate_bytes, mutate_json

SEED, INPUTS, STUDIES = 20, 2000, 4  # every fourth run is gone on with
SETTINGS = """
    groups=F task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=16 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=16
    pretrain.steps=4 pretrain.rows=4 train.steps=2 train.rows=2 adapter.rank=2
"""
STUDY = ["study", "two-hop", "--quiet", "--matmul=default"]
STUDY += [f"--set={word}" for word in SETTINGS.split()]
HOME = Path("seed-0/standard")
RESULTS = ("metrics.jsonl", "claims.json")

pytestmark = pytest.mark.slow


def said(*arguments):
    """The exit code and the error line of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, err.getvalue().strip()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished run, and beside it one of another seed."""
    room = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.drawing.Figure", None)
        for name, seed in (("sound", 0), ("other", 1)):
            assert said(*STUDY, f"--set=seeds={seed}", f"--run={room / name}") == (0, "")
        yield room / "sound"


def files(run, *patterns):
    return sorted(path for pattern in patterns for path in run.glob(pattern))


def json_files(run):
    here = files(run, "config.json", "env.json", "seed-0/*/*.json", "seed-0/*/*/*.json")
    return [*here, *files(run, "seed-0/*/library/*/*.json")]


# Damages: each takes a run and a generator, changes something, and names what it changed. ---------


def of_json(run, rng):
    path = rng.choice(json_files(run))
    path.write_bytes(json_bytes(mutate_json(json.loads(path.read_bytes()), rng), rng))
    return path


def of_rows(run, rng):
    """A line of metrics.jsonl or of a ledger, changed, lost, doubled or moved."""
    path = rng.choice([run / "metrics.jsonl", *files(run, "seed-0/*/made.jsonl")])
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[at] = json.dumps(mutate_json(json.loads(lines[at]), rng))
        case 1:
            del lines[at]
        case 2:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 3:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
    path.write_text("\n".join(lines) + "\n")
    return path


def of_bytes(run, rng):
    path = rng.choice([p for p in files(run, "**/*") if p.is_file() and p.suffix != ".html"])
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    return path


def of_places(run, rng):
    """Two files or folders of one kind exchanged, or one in the other's place."""
    kind = rng.choice(("cells/*.json", "library/*", "passes/*.json", "*.json"))
    one, other = rng.choices(files(run, str(HOME / kind)), k=2)
    if one == other:  # that of another run, with another seed
        remove(one)
        copy(run.parent / "other" / "seed-1" / one.relative_to(run / "seed-0"), one)
        return one
    between = run / "between"
    one.rename(between)
    other.rename(one)
    if rng.random() < 0.5:
        between.rename(other)
    else:
        copy(one, other)
        remove(between)
    return one


def of_absence(run, rng):
    """A file or folder lost, emptied, or something else in its place."""
    path = rng.choice([p for p in files(run, "*", "seed-0/*/*", "seed-0/*/*/*") if p.exists()])
    folder = path.is_dir()
    remove(path)
    match rng.randrange(4):
        case 0 if not folder:
            path.write_bytes(b"")
        case 1 if not folder:
            path.mkdir()
        case 2:
            path.symlink_to(run / "nowhere")
    return path


def of_tensors(run, rng):
    """Weights of another type, shape, name, or with numbers that no training gives."""
    path = rng.choice(files(run, "seed-0/*/model.pt", "seed-0/*/library/*/*.bin"))
    state = torch.load(path)
    name = rng.choice(list(state))
    tensor = state[name]
    match rng.randrange(10):
        case 0:
            state = {key: value.half() for key, value in state.items()}
        case 1:
            state[name] = tensor.to(rng.choice((torch.int8, torch.float64, torch.complex64)))
        case 2:
            tensor.view(-1)[0] = rng.choice((torch.nan, torch.inf, 3e38))
        case 3:
            state[name] = tensor[:1]
        case 4:
            del state[name]
        case 5:
            state[name + "x"] = tensor
        case 6:
            state[name] = tensor.to_sparse()
        case 7:
            state[name] = tensor.T.contiguous() if tensor.dim() == 2 else tensor[None]
        case 8:
            state = list(state.items())
        case 9:
            state[name] = tensor + 1e-3
    torch.save(state, path)
    return path


def of_checkpoint(run, rng):
    """The base is gone, and a checkpoint of its training stands there with something changed."""
    path = run / HOME / "checkpoint.pt"
    parameters = list(torch.load(run / HOME / "model.pt").values())
    step = rng.choice((0, 1, 2, 3, 4, 5, -1, 10**9, True, None, "2", 1.5))
    moments = {
        i: {
            "step": torch.tensor(float(step if isinstance(step, int) else 1)),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        for i, p in enumerate(parameters)
    }
    curve = [{"step": i, "loss": [1.0]} for i in range(step if type(step) is int else 1) if i < 9]
    state = {
        "step": step,
        "curve": curve,
        "optimizer": {"state": moments, "param_groups": []},
        "parameters": parameters,
    }
    changed = rng.choice(("parameters", "optimizer", "curve", None))
    if changed:
        state[changed] = rng.choice((None, [], {}, [None], {"state": {}}, parameters[:1]))
    torch.save(state, path)
    if rng.random() < 0.2:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    (run / HOME / "model.pt").unlink()
    return path


DAMAGES = {
    of_json: 30,
    of_rows: 15,
    of_bytes: 15,
    of_places: 10,
    of_absence: 10,
    of_tensors: 12,
    of_checkpoint: 8,
}


def copy(source, target):
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_damaged_runs_are_refused_or_give_the_sound_results(sound):
    rng, counts, kinds = Random(SEED), Counts(), Counter()
    right = {name: (sound / name).read_bytes() for name in RESULTS}
    run = sound.parent / "run"
    for at in range(INPUTS):
        remove(run)
        shutil.copytree(sound, run)
        (damage,) = rng.choices(list(DAMAGES), list(DAMAGES.values()))
        path = damage(run, rng)
        # So that the cells are measured again, with whatever base and experts are there.
        again = at % STUDIES == 0 or damage in (of_tensors, of_checkpoint)
        if again:
            remove(run / HOME / "cells" / "F.none.alone.json")
        tried = (at, damage.__name__, str(path.relative_to(run)))
        command = [*STUDY, f"--run={run}"] if again else ["report", run]
        kinds[damage.__name__, command[0]] += 1
        try:
            code, line = said(*command)
        except BaseException as error:
            counts.wrong(tried, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        if code:
            counts.refused += 1
            if fault := fault_of_message(ValueError(line), str(run)):
                counts.wrong(tried, fault)
        elif {name: (run / name).read_bytes() for name in RESULTS} == right:
            counts.right += 1
        else:
            counts.wrong(tried, "accepted, and the results differ")
    print(f"\n{INPUTS} damaged runs: {counts}; {dict(kinds)}")
    assert not counts.faults, "\n".join(map(str, counts.faults[:40]))
