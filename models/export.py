"""Write a toy base as a checkpoint that other libraries open: a folder in the layout of Hugging
Face, of the Llama family.

    save_checkpoint(model, tokenizer, "my-base")
    model, tokenizer = load_checkpoint("my-base")  # the same logits, the same ids
    transformers.AutoModelForCausalLM.from_pretrained("my-base")

Our transformer is a Llama with tied embeddings, so nothing of it is left out. Every word of the
closed vocabulary stays one token with its id; a text with any other word is refused there as here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch

from models.causal import CausalLM
from models.families import CheckpointError, read_config
from models.text_tokenizer import needed
from models.tokenizer import BOUNDARY, PAD, SPECIAL, Tokenizer
from models.transformer import Transformer

PREFIX = "model."  # stands before the path of every layer in a checkpoint


def save_checkpoint(model: Transformer, tokenizer: Tokenizer, folder: Path | str) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into a new
    folder, which is whole or absent.

    Raises CheckpointError for a folder in use, a model or a tokenizer of another kind, adapters
    that are attached, a vocabulary of another size, and where the extra ``checkpoint`` is missing;
    OSError where the disk refuses.
    """
    folder = Path(folder)
    if not isinstance(model, Transformer) or not isinstance(tokenizer, Tokenizer):
        raise CheckpointError(
            f"{folder}: the {type(model).__name__} with a {type(tokenizer).__name__} is no toy "
            "base; a checkpoint that was loaded needs no export, copy its own files"
        )
    if os.path.lexists(folder) and not _is_empty_folder(folder):
        raise CheckpointError(f"{folder} is in use: name a new folder")
    config = llama_config(model, tokenizer)
    weights = {f"{PREFIX}{name}": weight for name, weight in model.state_dict().items()}
    _check_weights(config, weights, folder)
    save_weights = needed("safetensors.torch").save_file
    words = word_level(tokenizer)
    saving = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    saving.mkdir(parents=True)
    try:
        _write_json(saving / "config.json", config)
        words.save(str(saving / "tokenizer.json"))
        _write_json(saving / "tokenizer_config.json", _tokenizer_config(model))
        stored = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_weights(stored, saving / "model.safetensors", metadata={"format": "pt"})
        saving.replace(folder)
    finally:
        shutil.rmtree(saving, ignore_errors=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def llama_config(model: Transformer, tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys of config.json. The boundary both begins and ends a text."""
    shape = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_base,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": tokenizer.boundary,
        "eos_token_id": tokenizer.boundary,
        "pad_token_id": tokenizer.pad,
        "torch_dtype": str(model.embed_tokens.weight.dtype).removeprefix("torch."),
    }


def word_level(tokenizer: Tokenizer) -> Any:
    """The same vocabulary as a ``tokenizers.Tokenizer``: words between blanks, none unknown. It
    puts the boundary before a text where it is asked for special tokens."""
    library = needed("tokenizers")
    made = library.Tokenizer(library.models.WordLevel(dict(tokenizer.ids), unk_token=""))
    made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{BOUNDARY} $A",
        pair=f"{BOUNDARY} $A {BOUNDARY} $B",
        special_tokens=[(BOUNDARY, tokenizer.boundary)],
    )
    return made


def _tokenizer_config(model: Transformer) -> dict[str, Any]:
    """What transformers reads beside tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOUNDARY,
        "eos_token": BOUNDARY,
        "pad_token": PAD,
        "padding_side": "left",
        "model_max_length": model.config.context,
        "clean_up_tokenization_spaces": False,
    }


def _check_weights(config: dict[str, Any], weights: dict[str, Any], folder: Path) -> None:
    """The weights are those that a reader of config.json expects."""
    planned = CausalLM.planned(*read_config(config, str(folder)), torch.float32).state_dict()
    for name in [*weights, *planned]:
        if name not in planned:
            raise CheckpointError(
                f"{folder}: the model has {name}, which no base has: detach its adapters first"
            )
        if name not in weights or weights[name].shape != planned[name].shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise CheckpointError(
                f"{folder}: {name} is {found}, its shape and the vocabulary of "
                f"{config['vocab_size']} words demand {tuple(planned[name].shape)}: "
                "give the tokenizer that the model was made with"
            )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
