"""Thousands of mutated adapter folders: each is refused in one line that names a file, or read with
the numbers that a naive reader finds in it."""

import json
import math
import re
import shutil
from collections import Counter, OrderedDict
from random import Random

import pytest
import torch
from torch import nn

import lora.files
from lora import Adapter, AdapterFileError, load_adapter, save_adapter
from tests.fuzz import ODD_VALUES, Counts, json_bytes, mutate_bytes, mutate_json, mutate_text

pytestmark = pytest.mark.slow
SEED, INPUTS = 14, 4000
PATHS = ("model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.up", "up")
TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
FREE = {
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode"),
    *("layers_pattern", "layers_to_transform", "lora_dropout", "peft_version", "task_type"),
}
READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "init_lora_weights", "bias"),
}
# What another tool writes: names that end a path, expressions, and settings of its own.
FOREIGN = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "use_rslora": False,
    "target_modules": ["q_proj", "up"],
    "rank_pattern": {r"layers\.1\..*": 3},
    "alpha_pattern": {"layers.1.up": 4.5, "^up": 1, "(q_proj|k_proj)": 16},
    "init_lora_weights": "gaussian",
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "exclude_modules": None,
    "task_type": "CAUSAL_LM",
    "peft_version": "0.20.0",
}


def make():
    g = torch.Generator().manual_seed(0)
    ranks = {path: 3 if ".1." in path else 2 for path in PATHS}
    factors = {
        path: (torch.randn(r, 6, generator=g), torch.randn(5, r, generator=g))
        for path, r in ranks.items()
    }
    return Adapter(factors, 3.0, alphas={"up": 7.0}, base="abc", origin={"role": "hop1", "of": [1]})


def starts(folder):
    """Folders to mutate, as {name: bytes}: ours, another tool's, and one in the oldest format."""
    save_adapter(make(), folder)
    ours = {file.name: file.read_bytes() for file in folder.iterdir()}
    tensors = {}
    for path, (A, B) in make().factors.items():
        tensors |= {f"base_model.model.{path}.lora_{k}.weight": t for k, t in (("A", A), ("B", B))}
    saved = {}
    for name, new in (("zip", True), ("old", False)):
        torch.save(tensors, folder / "x", _use_new_zipfile_serialization=new)
        saved[name] = (folder / "x").read_bytes()
    config = json.dumps(FOREIGN).encode()
    return tensors, [
        ours,
        {"adapter_config.json": config, "adapter_model.bin": saved["zip"]},
        {"adapter_config.json": config, "adapter_model.bin": saved["old"]},
    ]


def odd_tensor(tensor, rng):
    """Another tensor in its place, and what was done."""
    rows, columns = tensor.shape
    value = rng.choice((math.nan, math.inf, 3e38, -1e30, 0.0, 1e-45))
    changed = tensor.clone()
    changed[rng.randrange(rows), rng.randrange(columns)] = value
    types = (torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.half)
    return rng.choice(
        (
            changed,
            tensor.to(rng.choice((*types, torch.bfloat16, torch.double))),
            tensor * 3e38,
            tensor[:-1],
            tensor[:, :-1],
            tensor[None],
            tensor[:0],
            tensor.T,
            tensor.T.contiguous().T,
            tensor.flatten(),
            tensor[0, 0],
            tensor.to_sparse(),
            tensor.to("meta"),
            torch.zeros(1).expand(rows, columns),
            torch.zeros(1).expand(40_000, 100_000),
            nn.Parameter(tensor),
            tensor.repeat(1, 3)[:, :columns],
        )
    )


def odd_key(key, rng):
    replaced = (("lora_A", "lora_B"), (".weight", ".default.weight"), ("base_model.", ""))
    replaced += (("lora_", "lora_embedding_"), (".lora_A", ".base_layer"), ("layers", "..layers"))
    replaced += (("layers", "a/b"), ("q_proj", "k_proj"), ("weight", "bias"))
    return rng.choice(
        (key.replace(*rng.choice(replaced)), mutate_text(key, rng), 7, None, ("a", 1))
    )


def mutate_tensors(tensors, rng):
    changed = dict(tensors)
    key = rng.choice(list(changed))
    match rng.randrange(7):
        case 0 | 1 | 2:
            changed[key] = odd_tensor(changed[key], rng)
        case 3:
            changed[odd_key(key, rng)] = changed.pop(key)
        case 4:
            changed[odd_key(key, rng)] = changed[key]
        case 5:
            del changed[key]
        case 6:
            changed = {k.replace(".weight", ".default.weight"): t for k, t in changed.items()}
    return rng.choice((changed, changed, changed, list(changed.values()), OrderedDict(changed)))


def mutate(files, tensors, folder, rng):
    """Write a mutated copy of the files. Returns the kind of the mutation."""
    files = dict(files)
    (weights,) = (name for name in files if name.startswith("adapter_model"))
    kind = rng.choice(
        ("config", "config", "config", "origin", "tensors", "tensors", "bytes", "file")
    )
    if kind == "config":
        config = mutate_json(json.loads(files["adapter_config.json"]), rng)
        files["adapter_config.json"] = json_bytes(config, rng)
    elif kind == "origin":
        record = json.loads(files.get("origin.json", b'{"base": "abc", "origin": {"of": [1]}}'))
        files["origin.json"] = json_bytes(mutate_json(record, rng), rng)
    elif kind == "tensors":
        del files[weights]
        torch.save(mutate_tensors(tensors, rng), folder / "adapter_model.bin")
    elif kind == "bytes":
        name = rng.choice((weights, weights, *files))
        files[name] = mutate_bytes(files[name], rng)
    else:
        name = rng.choice(list(files))
        files[name] = rng.choice((b"", b"PK", b"\x80\x02.", rng.randbytes(50)))
        if rng.random() < 0.3:
            del files[name]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return kind


def is_number(value):
    return type(value) in (int, float) and abs(value) <= 3.4e38


def naive_meaning(folder):
    """(base, origin, {path: update in float64}). Raises where the folder has no such meaning."""
    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert config["peft_type"] == "LORA" and is_number(config["lora_alpha"])
    begun = config.get("init_lora_weights")
    assert begun in (None, True, False) or begun.lower() == "gaussian"
    assert config.get("bias", "none") in ("none", None, [], {})
    assert type(config.get("use_rslora", False)) in (bool, type(None))
    for key, value in config.items():
        assert not value or key in READ | FREE, key
    patterns = [config.get(f"{name}_pattern") or {} for name in ("rank", "alpha")]
    assert all(is_number(value) and value for pattern in patterns for value in pattern.values())
    origin = {}
    if (folder / "origin.json").exists():
        origin = json.loads((folder / "origin.json").read_bytes())
    assert type(origin.get("base")) in (str, type(None)) and type(origin.get("origin", {})) is dict

    (weights,) = folder.glob("adapter_model.*")
    if weights.suffix == ".bin":
        tensors = torch.load(weights, weights_only=True, map_location="cpu")
    else:
        tensors = lora.files.safetensors.load_file(weights)
    assert sum(t.numel() for t in tensors.values()) < 10**6
    found = {"A": {}, "B": {}}
    frozen = [key for key in tensors if key.endswith(".base_layer.weight")]
    assert all(key.replace("base_layer", "lora_A") in tensors for key in frozen)
    tensors = {key: tensor for key, tensor in tensors.items() if key not in frozen}
    for key, tensor in tensors.items():
        head, letter, _ = re.split(r"\.lora_([AB])(?=(?:\.default)?\.weight$)", key)
        path = head.removeprefix("base_model.model.")
        assert path != head and all(path.split(".")) and path.isprintable()
        assert tensor.dtype in TYPES and tensor.layout == torch.strided
        found[letter][path] = tensor.detach().double()
    assert (
        len({".default." in key for key in tensors}) == 1 and found["A"].keys() == found["B"].keys()
    )
    updates = {}
    for path, A in found["A"].items():
        rank, alpha = (
            next((v for k, v in pattern.items() if re.fullmatch(rf"(.*\.)?({k})", path)), default)
            for pattern, default in zip(
                patterns, (config.get("r"), config["lora_alpha"]), strict=True
            )
        )
        assert type(rank) is int and A.shape == (rank, A.shape[1]) and A.shape[1]
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        updates[path] = scale * (found["B"][path] @ A)
        assert updates[path].isfinite().all() and updates[path].abs().max() < 3.4e38
    targets = config.get("target_modules")
    assert targets is None or isinstance(targets, str) or all(isinstance(t, str) for t in targets)
    if isinstance(targets, list) and not config.get("exclude_modules"):
        if not config.get("layers_to_transform"):
            assert all(any(f".{path}".endswith(f".{t}") for path in updates) for t in targets)
    return origin.get("base"), origin.get("origin", {}), updates


def same(adapter, meaning):
    base, origin, updates = meaning
    if set(adapter.paths) != set(updates) or adapter.base != base:
        return False
    if json.dumps(adapter.origin) != json.dumps(origin):  # as text: NaN is no equal of itself
        return False
    return all(
        torch.allclose(
            adapter.scale(path) * (B.double() @ A.double()), updates[path], rtol=1e-6, atol=0
        )
        for path, (A, B) in adapter.factors.items()
    )


@pytest.mark.filterwarnings("ignore")
def test_mutated_adapters_are_refused_or_read_rightly(tmp_path):
    tensors, folders = starts(tmp_path / "start")
    rng, counts, kinds = Random(SEED), Counts(), Counter()
    for i in range(INPUTS):
        folder = tmp_path / "a"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind = mutate(rng.choice(folders), tensors, folder, rng)
        with counts.judge((i, kind), AdapterFileError, names=("adapter_", "origin.json")):
            adapter = load_adapter(folder)
            try:
                meaning = naive_meaning(folder)
            except Exception as error:
                counts.wrong((i, kind), f"read, although {type(error).__name__}: {error}")
                continue
            if same(adapter, meaning):
                counts.right += 1
                kinds[kind] += 1
            else:
                counts.wrong((i, kind), "read with other numbers")
    print(f"\n{INPUTS} mutated adapter folders: {counts}; right by kind: {dict(kinds)}")
    assert not counts.faults, "\n".join(map(str, counts.faults[:10]))
    assert counts.right > INPUTS / 20 and counts.refused > INPUTS / 5


def test_mutated_keys_of_patterns_end_and_fit_as_expressions_do(tmp_path):
    """Keys made of the parts of expressions: what is not refused fits as PEFT's rule says."""
    parts = [*"ab.()|*+?^$[]{}\\", ".*", r"\.", r"\d+", "(?:", "(?!", "[a-z]", "{1,3}", "q_proj"]
    rng, counts = Random(SEED), Counts()
    save_adapter(
        Adapter({path: (torch.ones(2, 3), torch.ones(3, 2)) for path in PATHS}, 2.0), tmp_path
    )
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for _ in range(INPUTS):
        key = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 9)))
        file.write_text(json.dumps({**config, "alpha_pattern": {key: 6.0}}))
        with counts.judge(key, AdapterFileError, names=("adapter_config.json",)):
            read = load_adapter(tmp_path)
            fits = [bool(re.match(rf"(.*\.)?({key})$", path)) for path in PATHS]
            if [read.scale(path) == 3.0 for path in PATHS] == fits:
                counts.right += 1
            else:
                counts.wrong(key, "fits other layers")
    print(f"\n{INPUTS} keys of patterns: {counts}")
    assert not counts.faults, "\n".join(map(str, counts.faults[:10]))


def test_odd_values_do_not_get_past_saving(tmp_path):
    """An adapter in memory with an odd field is refused when it is made or saved, or read back."""
    one, counts = make(), Counts()
    odd = [*ODD_VALUES, torch.ones(1), {1, 2}, object(), b"x", 1j]
    for value in odd:
        for change in (
            {"alpha": value},
            {"alphas": {"up": value}},
            {"origin": {"x": value}},
            {"factors": {value if isinstance(value, str) else "x": one.factors["up"]}},
        ):
            settings = {"factors": one.factors, "alpha": 1.0, **change}
            with counts.judge(change, ValueError, TypeError):
                made = Adapter(**settings)
                save_adapter(made, tmp_path / "a")
                back = load_adapter(tmp_path / "a")
                if all(back.scale(path) == made.scale(path) for path in made.paths):
                    counts.right += 1
                else:
                    counts.wrong(change, "read back with another scale")
    print(f"\n{len(odd) * 4} odd adapters: {counts}")
    assert not counts.faults, "\n".join(map(str, counts.faults[:10]))
