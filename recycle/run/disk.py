"""Files that are whole or absent.

Every file is written under another name in its folder and then renamed, so a killed process leaves
no half of one.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; make the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises ValueError with the remedy where the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no JSON ({error}): delete it, the same command makes it again"
        ) from None


def save_torch(path: Path, value: Any) -> None:
    """Write tensors in PyTorch's format; make the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(value, temporary)
    temporary.replace(path)


def load_torch(path: Path) -> Any:
    """The tensors of a file, on the CPU. Raises ValueError with the remedy where it is damaged."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): "
            "delete it, the same command makes it again"
        ) from None
