"""Low-rank adapters on the linear layers of any module."""

from lora.adapter import Adapter, combine, common_base, product_core, same_base
from lora.attach import (
    adapter_parameters,
    attach,
    detach,
    extract,
    folded,
    init_adapter,
    lora_layers,
    matching,
    train_only,
    using,
)
from lora.base import base_hash, keep_base_hash
from lora.files import AdapterFileError, load_adapter, save_adapter
from lora.kept import steady
from lora.layer import LoRALinear
from lora.modes import Gated, Mix, Mode, Rows
from lora.tuning import tune
from lora.ways import use_ways

__all__ = [
    "Adapter",
    "AdapterFileError",
    "Gated",
    "LoRALinear",
    "Mix",
    "Mode",
    "Rows",
    "adapter_parameters",
    "attach",
    "base_hash",
    "combine",
    "common_base",
    "detach",
    "extract",
    "folded",
    "init_adapter",
    "keep_base_hash",
    "load_adapter",
    "lora_layers",
    "matching",
    "product_core",
    "same_base",
    "save_adapter",
    "steady",
    "train_only",
    "tune",
    "use_ways",
    "using",
]
