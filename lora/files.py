"""Adapters on disk in the PEFT directory layout, so that other tools read ours and we read theirs.

    adapter_config.json         r, lora_alpha, use_rslora, target_modules, rank_pattern, ...
    adapter_model.safetensors   base_model.model.<path>.lora_A.weight (r, d_in)
                                base_model.model.<path>.lora_B.weight (d_out, r)
    origin.json                 base hash and record; other tools' folders have none

Weights are written as safetensors where that library is installed (the interop extra), and as
``adapter_model.bin`` elsewhere. `lora.peft` says which settings are read. One that changes the
numbers and is not supported here (DoRA, biases, ...) is refused by name, never ignored.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora.adapter import FACTOR_TYPES, Adapter
from lora.folder import CONFIG, ORIGIN, WEIGHTS, find, replace_files, versions
from lora.peft import (
    A_KEY,
    B_KEY,
    PREFIX,
    AdapterFileError,
    by_layer,
    config_of,
    is_path,
    layers_of,
    read_object,
    read_settings,
    shown,
)

try:
    import safetensors.torch as safetensors
except ImportError:
    safetensors = None  # type: ignore[assignment]

_SHARES = 64  # layers that may share one stored factor, on average


def save_adapter(adapter: Adapter, folder: Path | str) -> None:
    """Write the adapter into a folder, in place of the adapter that is there. Other files in the
    folder stay. Where anything fails, the old adapter stays as it was.

    Raises AdapterFileError for an adapter that could not be read again, ValueError for a place that
    is no folder, and OSError where the disk refuses.
    """
    folder = Path(folder)
    for path in adapter.paths:
        if not is_path(path):
            raise AdapterFileError(f"{folder}: {shown(path)} cannot be the name of a layer")
        if fault := _fault(adapter, path):
            raise AdapterFileError(f"{folder}: {shown(path)} {fault}: it is not saved")
    tensors = {}
    for path, (A, B) in adapter.factors.items():
        # Copies: a file cannot hold views of shared or larger memory as they are.
        tensors[f"{PREFIX}{path}{A_KEY}"] = A.detach().cpu().clone().contiguous()
        tensors[f"{PREFIX}{path}{B_KEY}"] = B.detach().cpu().clone().contiguous()
    origin = {"base": adapter.base, "origin": adapter.origin}
    contents = {CONFIG: _json(folder, config_of(adapter)), ORIGIN: _json(folder, origin)}
    if safetensors is not None:
        contents[WEIGHTS[0]] = safetensors.save(tensors, metadata={"format": "pt"})
    else:
        torch.save(tensors, buffer := io.BytesIO())
        contents[WEIGHTS[1]] = buffer.getvalue()
    replace_files(folder, contents)


def load_adapter(folder: Path | str) -> Adapter:
    """Read an adapter that was written here or by PEFT.

    Factors of a layer that have two types get the smallest one that holds both exactly. Raises
    AdapterFileError with one line that says what is wrong and what to do.
    """
    folder = Path(folder)
    while True:  # until no other process saves there in the meantime
        before = versions(folder)
        try:
            adapter = _load(folder)
        except (AdapterFileError, FileNotFoundError):
            if versions(folder) == before:
                raise
        else:
            if versions(folder) == before:
                return adapter


def _load(folder: Path) -> Adapter:
    config, weights = find(folder, CONFIG), find(folder, *WEIGHTS)
    if config is None:
        raise AdapterFileError(f"{folder} holds no adapter: there is no {CONFIG} in it")
    settings = read_settings(config)
    if weights is None:
        raise AdapterFileError(f"{folder} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}")
    tensors = _read_tensors(weights)
    layers = layers_of(weights, tensors, settings.target_modules)
    _check_size(weights, tensors)
    factors = {path: _factors(weights, *keys, tensors) for path, keys in layers.items()}
    ranks, alphas = by_layer(config, settings, factors)
    for path, (A, B) in factors.items():
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != ranks[path] or B.shape[1] != ranks[path]:
            raise AdapterFileError(
                f"{weights}: {shown(path)} has A {tuple(A.shape)} and B {tuple(B.shape)}, "
                f"{CONFIG} says rank {ranks[path]}: the two files are not of one adapter"
            )
    others = {path: alpha for path, alpha in alphas.items() if alpha != settings.alpha}
    base, origin = _read_origin(folder)
    adapter = Adapter(factors, settings.alpha, settings.rslora, others, base, origin)
    for path in adapter.paths:
        if fault := _fault(adapter, path):
            raise AdapterFileError(f"{weights}: {shown(path)} {fault}")
    return adapter


def _json(folder: Path, value: Any) -> bytes:
    try:
        return (json.dumps(value, indent=1) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise AdapterFileError(
            f"{folder}: the adapter's record cannot be written as JSON ({str(error)[:80]})"
        ) from None


def _read_origin(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The base's hash and the record, where there are any."""
    file = find(folder, ORIGIN)
    record = {} if file is None else read_object(file)
    base, origin = record.get("base"), record.get("origin", {})
    if not isinstance(base, str | None) or not isinstance(origin, dict):
        name, value = ("origin", origin) if isinstance(base, str | None) else ("base", base)
        raise AdapterFileError(
            f"{file}: {name} is {shown(value)}: the file is damaged, remove it if it is not yours"
        )
    return base, origin


def _fault(adapter: Adapter, path: str) -> str | None:
    """What is impossible in a layer's numbers. |s B A| is at most |s| r max|A| max|B|."""
    A, B = adapter.factors[path]
    if not (A.isfinite().all() and B.isfinite().all()):
        return "holds NaN or infinity: its training diverged, train it again"
    largest = torch.finfo(torch.promote_types(A.dtype, torch.float32)).max
    scale = abs(adapter.scale(path))
    bound = scale * len(A) * float(A.abs().max()) * float(B.abs().max())
    if max(scale, bound) > largest:
        return f"has an update of up to {bound:.0e}: no training gives such numbers"
    return None


def _factors(
    file: Path, key_A: str, key_B: str, tensors: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """A and B of one layer, as ordinary tensors of one type."""
    for key in (key_A, key_B):
        tensor = tensors[key]
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in FACTOR_TYPES:
            kind = "meta" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
            raise AdapterFileError(
                f"{file}: {shown(key)} is no tensor of ordinary numbers ({kind}): "
                "save the adapter in float32 or in a 16-bit type"
            )
        if not tensor.numel():
            raise AdapterFileError(
                f"{file}: {shown(key)} of shape {tuple(tensor.shape)} is empty: "
                "gather the parts of a sharded model before it is saved"
            )
    A, B = tensors[key_A].detach(), tensors[key_B].detach()
    common = torch.promote_types(A.dtype, B.dtype)
    return A.to(common).contiguous(), B.to(common).contiguous()


def _check_size(file: Path, tensors: dict[str, Tensor]) -> None:
    """A file of some kilobytes can ask for gigabytes, by views that repeat one number."""
    asked, size = sum(t.numel() * t.element_size() for t in tensors.values()), file.stat().st_size
    if asked > _SHARES * size:
        raise AdapterFileError(
            f"{file} asks for tensors of {asked} bytes and has {size}: "
            "its tensors are views of less, save copies of them"
        )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if file.name == WEIGHTS[0]:
        if safetensors is None:
            raise AdapterFileError(
                f"{file} needs the safetensors library: pip install -e .[interop]"
            )
        try:
            return safetensors.load_file(file)
        except Exception as error:  # the library raises a class of its own, and OSError, and more
            raise AdapterFileError(
                f"{file} cannot be read ({str(error)[:80]}): "
                "the file is damaged, make the adapter again"
            ) from None
    try:
        _check_unpacked(file)
        tensors = torch.load(file, weights_only=True, map_location="cpu")
    except AdapterFileError:
        raise
    except Exception as error:  # what torch.load raises for one changed byte is of many classes
        raise AdapterFileError(
            f"{file} cannot be read ({type(error).__name__}): "
            "the file is damaged, or holds more than tensors"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise AdapterFileError(f"{file} holds no dictionary of tensors: it is no adapter")
    return tensors


def _check_unpacked(file: Path) -> None:
    """PyTorch packs nothing: a file with packed parts may unpack to a thousand times its size."""
    with open(file, "rb") as opened:
        if opened.read(2) != b"PK":
            return
        with zipfile.ZipFile(opened) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > file.stat().st_size:
        raise AdapterFileError(f"{file} is packed: save it with torch.save, which packs nothing")
