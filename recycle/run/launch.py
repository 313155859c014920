"""Starts one command in several processes of this machine, without torchrun's own messages.

Each process finds the others by the environment variables that torchrun would set. So nothing else
of the program knows by whom it was started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from torch.distributed import TCPStore

HOST = "127.0.0.1"


def launch(arguments: Sequence[str], count: int) -> int:
    """``python -m recycle`` with these arguments, ``count`` times. The first exit code that is not
    0 ends the other processes too and is returned; their own lines say why. Raises ValueError for a
    process that a signal ended, for it has said nothing."""
    # The meeting point of the processes; it stands here so that it outlives each of them.
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    common = {
        **os.environ,
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # no process opens a meeting point of its own
        "WORLD_SIZE": str(count),
        # Processes with all cores each would wait for one another; torchrun sets 1 as well.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-m", "recycle", *arguments]
    running = [
        subprocess.Popen(command, env={**common, "RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(count)
    ]
    try:
        return _wait_for(running)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _wait_for(running: Sequence[subprocess.Popen]) -> int:
    """Until all have ended well, or one has not."""
    while True:
        codes = [process.poll() for process in running]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                raise ValueError(
                    f"process {rank} of {len(codes)} was ended by signal {-code} (9: by the system "
                    "where memory runs out, then with fewer --processes): start the same command "
                    "again, it goes on from what is on disk"
                )
        if failed := [code for code in codes if code]:
            return failed[0]
        if None not in codes:
            return 0
        time.sleep(0.1)
