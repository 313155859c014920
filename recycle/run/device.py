"""Where a base lies: the CPU, or a CUDA device of this machine.

The device is a fact of the machine, as the matrix product is (matmul.py), and no setting of a
study: whatever is drawn is drawn on the CPU, so seeds and cells are the same on every device. What
is calculated differs in its last digits.
"""

from __future__ import annotations

import math
import re
import warnings

import torch

from recycle.run.processes import here

INSTALL = "install a build of torch with CUDA into .venv (README.md)"


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names: cpu, cuda, or one of several, as cuda:1.

    ``cuda`` is the first one; processes that share a machine take its devices in turn. Raises
    ValueError for another name, where torch finds no CUDA device, and for one beyond the last."""
    found = re.fullmatch(r"cpu|cuda(?::([0-9]{1,4}))?", name)
    if found is None:
        raise ValueError(f"--device {name!r}: choose cpu, cuda, or one of several, as cuda:1")
    if name == "cpu":
        return torch.device("cpu")
    count = _cuda_devices()
    if not count:
        missing = (
            "torch finds no CUDA device: look after its driver and CUDA_VISIBLE_DEVICES"
            if torch.backends.cuda.is_built()
            else f"this torch {torch.__version__} is built without CUDA: {INSTALL}"
        )
        raise ValueError(f"--device {name}: {missing}, or take --device cpu")
    index = here()[0] % count if found[1] is None else int(found[1])
    if index >= count:
        known = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"--device {name}: this machine has {known}, choose one of them or cpu")
    return torch.device("cuda", index)


def on_one_device(name: str, processes: int) -> int:
    """How many of a machine's processes lie on one device, where ``--device`` is that name."""
    return math.ceil(processes / max(1, _cuda_devices())) if name == "cuda" else processes


def _cuda_devices() -> int:
    with warnings.catch_warnings():  # of a driver that does not fit: it is no device then
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def describe_device(device: torch.device) -> str:
    """``cpu``, or the kind of GPU for env.json: which one of several changes no number."""
    if device.type == "cpu":
        return "cpu"
    return f"{device.type} ({torch.cuda.get_device_name(device)})"
