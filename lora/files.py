"""Adapters on disk in the PEFT directory layout, so that other tools read ours and we read theirs.

    adapter_config.json          r, lora_alpha, use_rslora, target_modules, rank_pattern, alpha_pattern, ...
    adapter_model.safetensors    base_model.model.<path>.lora_A.weight (r, d_in), ....lora_B.weight (d_out, r)
    origin.json                  ours: base hash and record; absent from other tools' folders

Weights are written as safetensors where that library is installed (the interop extra), else as
``adapter_model.bin``. What changes the numbers and is not supported here (DoRA, biases, ...) is
refused by name, never ignored.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora.adapter import Adapter

try:
    import safetensors.torch as safetensors
except ImportError:
    safetensors = None  # type: ignore[assignment]

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Settings that would change the numbers, with the one value that is supported.
_NEUTRAL: dict[str, Any] = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "use_qalora": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "megatron_config": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
}


class AdapterFileError(ValueError):
    """A folder that holds no adapter, a damaged one, or one of an unsupported kind."""


def save_adapter(adapter: Adapter, folder: Path | str) -> None:
    """Write the adapter as a new folder; it appears whole or not at all, and an existing one is
    replaced."""
    folder = Path(folder)
    first = adapter.paths[0]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": adapter.rank(first),
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.paths),
        "init_lora_weights": True,
        "rank_pattern": {
            p: adapter.rank(p) for p in adapter.paths if adapter.rank(p) != adapter.rank(first)
        },
        "alpha_pattern": dict(adapter.alphas),
        **{
            key: _NEUTRAL[key]
            for key in ("use_dora", "lora_bias", "bias", "fan_in_fan_out", "modules_to_save")
        },
    }
    tensors = {}
    for path, (A, B) in adapter.factors.items():
        tensors[f"{_PREFIX}{path}{_A}"], tensors[f"{_PREFIX}{path}{_B}"] = (
            A.contiguous(),
            B.contiguous(),
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    (temporary / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (temporary / "origin.json").write_text(
        json.dumps({"base": adapter.base, "origin": adapter.origin}, indent=1) + "\n"
    )
    if safetensors is not None:
        safetensors.save_file(
            tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"}
        )
    else:
        torch.save(tensors, temporary / "adapter_model.bin")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def load_adapter(folder: Path | str) -> Adapter:
    """Read an adapter; raises AdapterFileError with one line that says what is wrong and what to
    do."""
    folder = Path(folder)
    config = _read_json(folder / "adapter_config.json")
    if config is None:
        raise AdapterFileError(f"{folder} holds no adapter: there is no adapter_config.json in it")
    if config.get("peft_type") != "LORA":
        raise AdapterFileError(
            f"{folder}: peft_type is {config.get('peft_type')!r}, only 'LORA' is supported"
        )
    for key, neutral in _NEUTRAL.items():
        if config.get(key) not in (neutral, None, [], {}):
            raise AdapterFileError(
                f"{folder}: {key} = {config[key]!r} is not supported, only {neutral!r}"
            )
    tensors = _read_tensors(folder)

    factors, left = {}, set(tensors)
    # safetensors lists them in an order that changes from process to process: take the order of the
    # layers as saved.
    listed = config.get("target_modules")
    order = (
        {f"{_PREFIX}{path}{_A}": i for i, path in enumerate(listed)}
        if isinstance(listed, list)
        else {}
    )
    for key in sorted(tensors, key=lambda key: (order.get(key, len(order)), key)):
        if key.startswith(_PREFIX) and key.endswith(_A):
            path = key[len(_PREFIX) : -len(_A)]
            if (other := f"{_PREFIX}{path}{_B}") not in tensors:
                raise AdapterFileError(
                    f"{folder}: {path} has a lora_A and no lora_B: the file is not whole, make it again"
                )
            factors[path] = (tensors[key], tensors[other])
            left -= {key, other}
    if left:
        raise AdapterFileError(
            f"{folder}: the tensor {sorted(left)[0]!r} is no part of a LoRA of linear layers "
            f"({len(left)} such): only {_PREFIX}<path>{_A} and {_B} are supported"
        )
    if not factors:
        raise AdapterFileError(f"{folder}: the weight file holds no tensors")
    rank_pattern, alpha_pattern = (
        config.get("rank_pattern") or {},
        config.get("alpha_pattern") or {},
    )
    for path, (A, B) in factors.items():
        rank = _of_pattern(rank_pattern, path, config.get("r"))
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != rank or B.shape[1] != rank:
            raise AdapterFileError(
                f"{folder}: {path} has A {tuple(A.shape)} and B {tuple(B.shape)}, adapter_config.json says "
                f"rank {rank}: the two files are not of one adapter"
            )
        if not (A.isfinite().all() and B.isfinite().all()):
            raise AdapterFileError(
                f"{folder}: {path} holds NaN or infinity: its training diverged, train it again"
            )
    if not isinstance(alpha := config.get("lora_alpha"), int | float):
        raise AdapterFileError(f"{folder}: lora_alpha is {alpha!r}, it must be a number")
    alphas = {
        path: a for path in factors if (a := _of_pattern(alpha_pattern, path, alpha)) != alpha
    }
    origin = _read_json(folder / "origin.json") or {}
    return Adapter(
        factors,
        alpha,
        bool(config.get("use_rslora")),
        alphas,
        origin.get("base"),
        origin.get("origin", {}),
    )


def _of_pattern(pattern: dict[str, Any], path: str, default: Any) -> Any:
    """PEFT's rule: the first key that is the path, or its end after a dot, read as a regular
    expression."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", path):
            return value
    return default


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterFileError(
            f"{path} is no JSON ({error}): the file is damaged, make the adapter again"
        ) from None
    if not isinstance(value, dict):
        raise AdapterFileError(
            f"{path} holds a {type(value).__name__}, not an object with settings"
        )
    return value


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    safe, plain = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if safe.is_file():
        if safetensors is None:
            raise AdapterFileError(
                f"{safe} needs the safetensors library: pip install -e .[interop]"
            )
        try:
            return safetensors.load_file(safe)
        except Exception as error:  # the library raises a class of its own, and OSError, and more
            raise AdapterFileError(
                f"{safe} cannot be read ({error}): the file is damaged, make the adapter again"
            ) from None
    if not plain.is_file():
        raise AdapterFileError(
            f"{folder} has neither adapter_model.safetensors nor adapter_model.bin"
        )
    try:
        tensors = torch.load(plain, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise AdapterFileError(
            f"{plain} cannot be read ({type(error).__name__}): the file is damaged, or holds more than tensors"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise AdapterFileError(f"{plain} holds no dictionary of tensors: it is no adapter")
    return tensors
