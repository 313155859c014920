"""PEFT's adapter_config.json and the names of its tensors: what is read, and what is refused.

This is the one place where the types, the ranges and the meaning of a stranger's settings are
checked. A setting falls into one of four classes: it is read, it changes nothing here, it has one
value that is supported, or it is unknown. An unknown one passes where its value is empty or false.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora.adapter import Adapter
from lora.patterns import anchored, values_of

PREFIX, A_KEY, B_KEY = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_BASE_KEY = re.compile(r"base_model\.model\.(.+)\.base_layer\.(?:weight|bias)")
_LARGEST_FILE = 2**24  # bytes of JSON
_LARGEST = torch.finfo(torch.float32).max

# Settings that would change the numbers, with the one value that is supported.
_NEUTRAL: dict[str, Any] = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "use_qalora": False,
    "use_bdlora": None,
    "kasa_config": None,
    "velora_config": None,
    "monteclora_config": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "ensure_weight_tying": False,
    "megatron_config": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
}
_WRITTEN = ("use_dora", "lora_bias", "bias", "fan_in_fan_out", "modules_to_save")
# Settings that change nothing once an adapter is trained.
_FREE = set(
    "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode "
    "layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core "
    "peft_version qalora_group_size revision runtime_config task_type".split()
)
_SELECTIVE = ("exclude_modules", "layers_to_transform")  # of what target_modules lists
# How training begins where the base stays as it is. PiSSA, OLoRA, CorDA and LoRA-GA first take B A
# out of the base and LoftQ quantises it, so their factors do not belong to the base as it was.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")


class AdapterFileError(ValueError):
    """A folder that holds no adapter, a damaged one, or one of an unsupported kind."""

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        super().__init__(line)


def shown(value: Any) -> str:
    """A stranger's value, short enough for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 50
    text = short.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Settings:
    """What an adapter's configuration says about its numbers."""

    rank: int | None
    alpha: float
    rslora: bool
    target_modules: list[str] | None  # None where an expression or PEFT's default chose the layers
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and _is_small(value) and not isinstance(value, bool)


def _is_small(value: float) -> bool:
    return -_LARGEST <= value <= _LARGEST  # also right for NaN, and for whole numbers of any size


def _is_rank(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value > 0


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_pattern(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        value is None or (isinstance(value, dict) and all(of(inner) for inner in value.values()))
    )


# Settings that are read: what each must be.
_READ: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "peft_type": ("only 'LORA' is supported", lambda value: value == "LORA"),
    "r": ("it must be a whole number above 0", lambda value: value is None or _is_rank(value)),
    "lora_alpha": ("it must be a finite number", _is_number),
    "use_rslora": ("it must be true or false", _is_flag),
    "rank_pattern": ("it must hold whole numbers above 0 by layer", _is_pattern(_is_rank)),
    "alpha_pattern": (
        "it must hold finite numbers other than 0 by layer",
        _is_pattern(lambda value: _is_number(value) and value != 0),
    ),
    "target_modules": (
        "it must hold names of layers",
        lambda value: value is None or isinstance(value, str) or _is_names(value),
    ),
    "init_lora_weights": (
        "which changes the base: merge it there, or let PEFT save a plain LoRA "
        "(path_initial_model_for_weight_conversion)",
        lambda value: _is_flag(value) or str(value).lower() in _PLAIN_STARTS,
    ),
}


def read_settings(file: Path) -> Settings:
    """The settings of an adapter_config.json.

    Raises AdapterFileError for one that is damaged, and by its name for a setting with a value that
    is impossible or unsupported.
    """
    config = read_object(file)
    for key, (rule, holds) in _READ.items():
        if not holds(value := config.get(key)):
            raise AdapterFileError(f"{file}: {key} is {shown(value)}, {rule}")
    for key, neutral in _NEUTRAL.items():
        if (value := config.get(key)) not in (neutral, None, [], {}):
            raise AdapterFileError(
                f"{file}: {key} = {shown(value)} is not supported, only {neutral!r}: "
                "merge the adapter into its base with the tool that made it"
            )
    known = {*_READ, *_NEUTRAL, *_FREE}
    for key, value in config.items():
        if value and key not in known:
            raise AdapterFileError(
                f"{file}: {shown(key)} = {shown(value)} is an unknown setting: remove it from the "
                "file if it does not change the numbers"
            )
    targets = config.get("target_modules")
    selective = any(config.get(key) not in (None, []) for key in _SELECTIVE)
    return Settings(
        rank=config.get("r"),
        alpha=config["lora_alpha"],
        rslora=bool(config.get("use_rslora")),
        target_modules=targets if isinstance(targets, list) and not selective else None,
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
    )


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises AdapterFileError where the file holds none."""
    if (size := file.stat().st_size) > _LARGEST_FILE:
        raise AdapterFileError(f"{file} has {size} bytes: no adapter needs so many")
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(
            f"{file} is no JSON ({str(error)[:80]}): the file is damaged, make the adapter again"
        ) from None
    if not isinstance(value, dict):
        raise AdapterFileError(
            f"{file} holds a {type(value).__name__}, not an object with settings"
        )
    return value


def by_layer(
    file: Path, settings: Settings, paths: Collection[str]
) -> tuple[dict[str, int | None], dict[str, float]]:
    """The rank and the alpha of each layer. Raises AdapterFileError for a key that is no
    expression."""
    name = "rank_pattern"
    try:
        ranks = values_of(settings.rank_pattern, paths)
        name = "alpha_pattern"
        alphas = values_of(settings.alpha_pattern, paths)
    except ValueError as error:
        raise AdapterFileError(f"{file}: in {name}, {error}") from None
    return (
        {path: ranks.get(path, settings.rank) for path in paths},
        {path: alphas.get(path, settings.alpha) for path in paths},
    )


def layers_of(
    file: Path, keys: Collection[Any], target_modules: list[str] | None
) -> dict[str, tuple[str, str]]:
    """{path: (key of A, key of B)}, in the order in which the layers were saved.

    The file itself has no order: safetensors lists tensors in one that changes from process to
    process. PEFT may put an adapter's name into keys (``.lora_A.default.weight``), and the frozen
    weight of a layer beside its factors (``.base_layer.weight``), which is left out.

    Raises AdapterFileError for keys that are no part of a LoRA of linear layers, for half a layer,
    and for a layer that is missing.
    """
    pairs: dict[str, dict[str, str]] = {}
    names, others = set(), []
    for key in keys:
        found = _KEY.fullmatch(key) if isinstance(key, str) else None
        if found is None or not is_path(found[1]):
            others.append(key)
            continue
        path, letter, name = found.groups()
        pairs.setdefault(path, {})[letter] = key
        names.add(name)
    for key in others:
        frozen = _BASE_KEY.fullmatch(key) if isinstance(key, str) else None
        if frozen is None or frozen[1] not in pairs:
            raise AdapterFileError(
                f"{file}: the tensor {shown(key)} is no part of a LoRA of linear layers: "
                f"only {PREFIX}<path>{A_KEY} and {B_KEY} are supported"
            )
    if not pairs:
        raise AdapterFileError(f"{file}: the weight file holds no tensors")
    if len(names) > 1:
        several = shown(sorted(map(str, names)))
        raise AdapterFileError(f"{file} holds the adapters {several}: save each in its own folder")
    for path, pair in pairs.items():
        if len(pair) == 1:
            letter, missing = ("A", "B") if "A" in pair else ("B", "A")
            raise AdapterFileError(
                f"{file}: {shown(path)} has a lora_{letter} and no lora_{missing}: "
                "the file is not whole, make it again"
            )
    _check_targets(file, target_modules or [], pairs)
    positions = {path: i for i, path in enumerate(target_modules or [])}
    ordered = sorted(pairs, key=lambda path: (positions.get(path, len(positions)), path))
    return {path: (pairs[path]["A"], pairs[path]["B"]) for path in ordered}


def is_path(path: str) -> bool:
    """Whether a module can have this name: printable parts between dots, none of them empty."""
    return path.isprintable() and all(path.split("."))


def _check_targets(file: Path, target_modules: list[str], paths: Collection[str]) -> None:
    """Every layer that the settings list has factors: a name in the list is a path, or its end."""
    parts = [path.split(".") for path in paths]
    ends = {".".join(names[i:]) for names in parts for i in range(len(names))}
    for target in target_modules:
        if target not in ends:
            raise AdapterFileError(
                f"{file} has no factors for {shown(target)}, which target_modules lists: the file "
                "is not whole, or the name is one too many and can be taken out of the list"
            )


def config_of(adapter: Adapter) -> dict[str, Any]:
    """The settings to write for an adapter. Each layer that differs is named by a key of its own,
    which fits no other layer."""
    ranks = {path: adapter.rank(path) for path in adapter.paths}
    rank = ranks[adapter.paths[0]]
    alphas = {path: alpha for path, alpha in adapter.alphas.items() if path in ranks}
    return {
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
        "rank_pattern": {anchored(path): r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {anchored(path): alpha for path, alpha in alphas.items()},
        **{key: _NEUTRAL[key] for key in _WRITTEN},
    }
