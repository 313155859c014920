"""What the keys of a checkpoint's config.json mean for our transformer.

A family is one line of FAMILIES. Every key of config.json is read, is known to change no logits, or
has the one value that is supported. Any other key is refused by its name, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.causal import CheckpointConfig, RopeScaling


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded. The message is one line with what is wrong and the
    remedy."""


@dataclass(frozen=True)
class Family:
    """How checkpoints of one ``model_type`` differ from Llama's.

    ``window_switch`` names the key that switches a sliding window on; without it a window that is
    given is on. ``names`` maps foreign names of weights to ours, with {i} for the block's number;
    names that are ours already need no line.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    window_switch: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True, window_switch="use_sliding_window"),
    "qwen3": Family(qk_norm=True, window_switch="use_sliding_window"),
}

# Keys that would change the logits, with the one value that is supported.
_SUPPORTED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "partial_rotary_factor": 1.0,
}
# Keys that change no logits: where the file came from, how it was trained, how others decode it.
_HARMLESS = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "is_llama_config",
    "max_window_layers",
    "model_type",
    "pad_token_id",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "use_cache",
    "vocab_size",
}


class Settings:
    """The keys of a config.json, each read with its type; ``where`` is the file, for errors."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where, self.known = values, where, set(_HARMLESS)

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or the default where the key is absent or null."""
        self.known.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def number(self, key: str, kind: type = int, default: Any = None) -> Any:
        """A number above 0."""
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.where} has no {key}: restore the file")
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or value <= 0 or kind(value) != value:
            raise CheckpointError(
                f"{self.where} has {key} = {value!r}: it must be {_TITLES[kind]} above 0, "
                "restore the file"
            )
        return kind(value)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.where} has {key} = {value!r}: it must be true or false")
        return value

    def group(self, key: str) -> Settings:
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.where} has {key} = {value!r}: it must be a group of keys")
        return Settings(value, f"{self.where}, {key}")

    def refuse_the_rest(self) -> None:
        """Raises CheckpointError for a key that nobody has read and that may change the logits. A
        key that is null, false or empty switches nothing on."""
        for key, value in self.values.items():
            supported = _SUPPORTED.get(key)
            neutral = value in (None, False) if supported is None else value in (None, supported)
            if key not in self.known and not neutral and value not in ([], {}):
                wanted = "" if supported is None else f", only {supported!r}"
                raise CheckpointError(
                    f"{self.where} has {key} = {_short(value)}, which is not supported{wanted}: "
                    "use a checkpoint without it"
                )


_TITLES = {int: "a whole number", float: "a number"}


def family_of(values: Mapping[str, Any], where: str) -> Family:
    """The family that ``model_type`` names. Raises CheckpointError for one that is unknown."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{where} has model_type = {_short(kind)}: known are {', '.join(FAMILIES)} "
            "(SmolLM and SmolLM2 are llama)"
        )
    return FAMILIES[kind]


def read_config(
    values: Mapping[str, Any], where: str, context: int | None = None
) -> tuple[CheckpointConfig, int]:
    """The shape of a checkpoint and the rows of its embeddings, from the keys of its config.json.

    ``context`` is the longest sequence that will be asked for: the checkpoint's own where it is
    None, but never beyond a sliding window, within which all attention is full attention. Raises
    CheckpointError for what is missing, of a wrong type, or not supported.
    """
    family, settings = family_of(values, where), Settings(values, where)
    width, heads = settings.number("hidden_size"), settings.number("num_attention_heads")
    kv_heads = settings.number("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"{where} has num_attention_heads = {heads}, which is no multiple of "
            f"num_key_value_heads = {kv_heads}: restore the file"
        )
    rope_base, scaling = _rope(settings)
    longest = settings.number("max_position_embeddings")
    shape = {
        "width": width,
        "layers": settings.number("num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "hidden": settings.number("intermediate_size"),
        "head_width": settings.number("head_dim", default=max(1, width // heads)),
        "eps": settings.number("rms_norm_eps", float),
        "own_head": not settings.flag("tie_word_embeddings"),
        "context": _context(settings, family, longest, context),
    }
    settings.refuse_the_rest()
    try:
        config = CheckpointConfig(
            **shape,
            rope_base=rope_base,
            rope_scaling=scaling,
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
        )
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}; restore the file") from None
    return config, settings.number("vocab_size")


def _context(settings: Settings, family: Family, longest: int, wanted: int | None) -> int:
    """The longest sequence: beyond a sliding window, attention would no longer be full."""
    layers = settings.get("layer_types", ["sliding_attention"])
    layers = set(map(str, layers)) if isinstance(layers, list) else {str(layers)}
    if unknown := layers - {"full_attention", "sliding_attention"}:
        raise CheckpointError(
            f"{settings.where} has layer_types with {min(unknown)!r}, which is not supported: "
            "use a checkpoint with full attention"
        )
    switch = family.window_switch
    on = True if switch is None else settings.flag(switch)
    limit, limited_by = longest, "max_position_embeddings"
    if settings.get("sliding_window") is not None and on and "sliding_attention" in layers:
        window = settings.number("sliding_window")
        if window < longest:
            limit, limited_by = window, "sliding_window"
    if wanted is not None and not 1 <= wanted <= limit:
        raise CheckpointError(
            f"a context of {wanted} tokens: {settings.where} has {limited_by} = {limit}, "
            f"choose a context from 1 to {limit}"
        )
    return limit if wanted is None else wanted


def _rope(settings: Settings) -> tuple[float, RopeScaling | None]:
    """The base of the rotary frequencies, and how they are scaled.

    The keys stand in rope_parameters (transformers 5), or in rope_scaling and rope_theta (before).
    "dynamic" scales only beyond max_position_embeddings, where no sequence reaches.
    """
    old, new = settings.group("rope_scaling"), settings.group("rope_parameters")
    rope = Settings({**old.values, **new.values}, (new if new.values else old).where)
    base = rope.get("rope_theta") or settings.get("rope_theta", 10_000.0)
    kind, older_kind = rope.get("rope_type"), rope.get("type")
    kind = kind or older_kind or "default"
    base = Settings({"rope_theta": base}, settings.where).number("rope_theta", float)
    scaling = None
    if kind == "linear":
        scaling = RopeScaling(rope.number("factor", float))
    elif kind == "llama3":
        scaling = RopeScaling(
            rope.number("factor", float),
            rope.number("low_freq_factor", float),
            rope.number("high_freq_factor", float),
            rope.number(
                "original_max_position_embeddings",
                default=settings.number("max_position_embeddings"),
            ),
        )
        if scaling.high <= scaling.low:
            raise CheckpointError(f"{rope.where} has high_freq_factor below low_freq_factor")
    elif kind == "dynamic":
        rope.number("factor", float)
    elif kind != "default":
        raise CheckpointError(
            f"{rope.where} has rope_type = {_short(kind)}: supported are default, linear, llama3 "
            "and dynamic, use a checkpoint with one of them"
        )
    rope.refuse_the_rest()
    return base, scaling


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Our name of a weight: ``names`` maps foreign names to ours, with {i} for the block's number.

    >>> renamed("blk.7.attn_q.weight", {"blk.{i}.attn_q.weight": "layers.{i}.q_proj.weight"})
    'layers.7.q_proj.weight'
    """
    parts = name.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    pattern = ".".join("{i}" if part is number else part for part in parts)
    return names[pattern].replace("{i}", number) if pattern in names else name


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
