"""What the numbers of a run may depend on besides its configuration, and who judges them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recycle.run.disk import write_json
from recycle.run.folder import read_environments

ROOM = Path(__file__).parent.parent
RULES = ("studies", "decide")  # folders of recycle that say what is claimed and how it is decided


def describe_environment(
    matmul: dict[str, Any], command: str, device: str = "cpu"
) -> dict[str, Any]:
    """Command, commit, versions, threads, and the device and matrix product that were chosen."""
    checkout = describe_checkout()
    return {
        "commands": [command],
        "commit": checkout["commit"],
        "dirty": checkout["dirty"],
        "rules": checkout["rules"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "matmul": matmul,
    }


def describe_checkout(room: Path = ROOM) -> dict[str, Any]:
    """The code that runs now: ``commit``; ``dirty``, whether tracked files differ from it or Python
    files stand beside them that git does not know; ``untracked``, those files; ``rules``, the last
    commit that changed what is claimed or how it is decided, with its date.

    All are None where git does not know this code: no git, or no checkout of this project."""
    if _git(room, "ls-files", "--error-unmatch", f"run/{Path(__file__).name}") is None:
        return dict.fromkeys(("commit", "dirty", "untracked", "rules"))
    status = _git(room, "status", "--porcelain", "-z", "--untracked-files=all") or ""
    lines = [line for line in status.split("\0") if line]
    untracked = sorted(line[3:] for line in lines if line[:3] == "?? " and line.endswith(".py"))
    return {
        "commit": _git(room, "rev-parse", "HEAD"),
        "dirty": bool(untracked) or any(line[:3] != "?? " for line in lines),
        "untracked": untracked,
        "rules": _git(room, "log", "-1", "--format=%H %cI", "--", *RULES),
    }


def why_dirty(checkout: Mapping[str, Any]) -> str | None:
    """In words, why what `describe_checkout` found is not the code of its commit; None where it
    is."""
    if not checkout["dirty"]:
        return None
    untracked = checkout["untracked"]
    which = f"{untracked[0]} is in no commit" if untracked else "files differ from the commit"
    return f"this checkout is dirty ({which})"


def describe_judge() -> dict[str, Any]:
    """The checkout whose rules judge now, and when that is (UTC)."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**describe_checkout(), "when": now}


def _git(room: Path, *arguments: str) -> str | None:
    """What git answers in a folder; None where it cannot."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=room, check=False
        )
    except OSError:  # there is no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def note_environment(run: Path, environment: dict[str, Any]) -> None:
    """env.json lists every environment that made a part of the run, each with its commands in
    order; a command that goes on with its own work is noted once."""
    path = run / "env.json"
    known = read_environments(run)

    def identity(e: dict[str, Any]) -> list:
        keys = ("commit", "dirty", "python", "torch", "threads")
        where = e.get("device", "cpu")
        return [*(e.get(key) for key in keys), where, e["matmul"]["setting"], e.get("ways", {})]

    others = [each for each in known if identity(each) != identity(environment)]
    earlier = [c for e in known if identity(e) == identity(environment) for c in commands_of(e)]
    new = commands_of(environment)
    commands = earlier if earlier[-len(new) :] == new else [*earlier, *new]
    write_json(path, [*others, {**environment, "commands": commands}])


def commands_of(environment: Mapping[str, Any]) -> list[str]:
    """The commands of an environment. One that an older version noted has only its last."""
    return environment["commands"] if "commands" in environment else [environment["command"]]
