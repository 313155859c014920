"""What the numbers of a run may depend on besides its configuration."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recycle.run.disk import read_json, write_json

RULES = ("studies", "decide")  # folders of recycle that say what is claimed and how it is decided


def describe_environment(matmul: dict[str, Any], command: str) -> dict[str, Any]:
    """Command, commit, versions, threads, and the matrix product that was chosen."""
    room = Path(__file__).parent.parent

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=room, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "rules": git("log", "-1", "--format=%H %cI", "--", *RULES),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "matmul": matmul,
    }


def note_environment(run: Path, environment: dict[str, Any]) -> None:
    """env.json lists every environment that made a part of the run, each with its last command."""
    path = run / "env.json"
    known = read_json(path) if path.exists() else []

    def identity(e: dict[str, Any]) -> list:
        keys = ("commit", "dirty", "python", "torch", "threads")
        return [*(e.get(key) for key in keys), e["matmul"]["setting"]]

    others = [each for each in known if identity(each) != identity(environment)]
    write_json(path, [*others, environment])
