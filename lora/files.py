"""Adapters on disk in the PEFT directory layout, so that other tools read ours and we read theirs.

    adapter_config.json         r, lora_alpha, use_rslora, target_modules, rank_pattern, ...
    adapter_model.safetensors   base_model.model.<path>.lora_A.weight (r, d_in)
                                base_model.model.<path>.lora_B.weight (d_out, r)
    origin.json                 base hash and record; other tools' folders have none

Weights are written as safetensors where that library is installed (the interop extra), and as
``adapter_model.bin`` elsewhere. A setting that changes the numbers and is not supported here (DoRA,
biases, ...) is refused by name, never ignored.
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
_WRITTEN = ("use_dora", "lora_bias", "bias", "fan_in_fan_out", "modules_to_save")


class AdapterFileError(ValueError):
    """A folder that holds no adapter, a damaged one, or one of an unsupported kind."""


def save_adapter(adapter: Adapter, folder: Path | str) -> None:
    """Write the adapter as a new folder. The folder appears whole or not at all, and replaces one
    that exists."""
    folder = Path(folder)
    ranks = {path: adapter.rank(path) for path in adapter.paths}
    rank = ranks[adapter.paths[0]]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.paths),
        "init_lora_weights": True,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": dict(adapter.alphas),
        **{key: _NEUTRAL[key] for key in _WRITTEN},
    }
    tensors = {}
    for path, (A, B) in adapter.factors.items():
        tensors[f"{_PREFIX}{path}{_A}"] = A.contiguous()
        tensors[f"{_PREFIX}{path}{_B}"] = B.contiguous()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    origin = {"base": adapter.base, "origin": adapter.origin}
    (temporary / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (temporary / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    if safetensors is not None:
        weights = temporary / "adapter_model.safetensors"
        safetensors.save_file(tensors, weights, metadata={"format": "pt"})
    else:
        torch.save(tensors, temporary / "adapter_model.bin")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def load_adapter(folder: Path | str) -> Adapter:
    """Read an adapter that was written here or by PEFT.

    Raises AdapterFileError with one line that says what is wrong and what to do.
    """
    folder = Path(folder)
    config = _read_config(folder)
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float):
        raise AdapterFileError(f"{folder}: lora_alpha is {alpha!r}, it must be a number")
    factors = _factors(folder, config.get("target_modules"))
    rank_pattern = config.get("rank_pattern") or {}
    for path, (A, B) in factors.items():
        rank = _of_pattern(rank_pattern, path, config.get("r"))
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != rank or B.shape[1] != rank:
            raise AdapterFileError(
                f"{folder}: {path} has A {tuple(A.shape)} and B {tuple(B.shape)}, "
                f"adapter_config.json says rank {rank}: the two files are not of one adapter"
            )
        if not (A.isfinite().all() and B.isfinite().all()):
            raise AdapterFileError(
                f"{folder}: {path} holds NaN or infinity: its training diverged, train it again"
            )
    alpha_pattern = config.get("alpha_pattern") or {}
    every_alpha = {path: _of_pattern(alpha_pattern, path, alpha) for path in factors}
    alphas = {path: value for path, value in every_alpha.items() if value != alpha}
    rslora = bool(config.get("use_rslora"))
    record = _read_json(folder / "origin.json") or {}
    return Adapter(factors, alpha, rslora, alphas, record.get("base"), record.get("origin", {}))


def _read_config(folder: Path) -> dict[str, Any]:
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
    return config


def _factors(folder: Path, target_modules: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """{path: (A, B)} from the weight file, in the order in which the layers were saved.

    The file itself has no order: safetensors lists tensors in one that changes from process to
    process.
    """
    tensors = _read_tensors(folder)
    listed = target_modules if isinstance(target_modules, list) else []
    positions = {f"{_PREFIX}{path}{_A}": i for i, path in enumerate(listed)}
    factors, unread = {}, set(tensors)
    for key in sorted(tensors, key=lambda key: (positions.get(key, len(positions)), key)):
        if key.startswith(_PREFIX) and key.endswith(_A):
            path = key[len(_PREFIX) : -len(_A)]
            partner = f"{_PREFIX}{path}{_B}"
            if partner not in tensors:
                raise AdapterFileError(
                    f"{folder}: {path} has a lora_A and no lora_B: "
                    "the file is not whole, make it again"
                )
            factors[path] = (tensors[key], tensors[partner])
            unread -= {key, partner}
    if unread:
        raise AdapterFileError(
            f"{folder}: the tensor {min(unread)!r} is no part of a LoRA of linear layers "
            f"({len(unread)} such): only {_PREFIX}<path>{_A} and {_B} are supported"
        )
    if not factors:
        raise AdapterFileError(f"{folder}: the weight file holds no tensors")
    return factors


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
            f"{plain} cannot be read ({type(error).__name__}): "
            "the file is damaged, or holds more than tensors"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise AdapterFileError(f"{plain} holds no dictionary of tensors: it is no adapter")
    return tensors
