"""Processes that share a study: they wait for each other, and end together.

The slow tests start two real processes, as torchrun does on two machines.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from recycle.run import processes as room
from recycle.run.processes import JOINING, SILENT, Team, processes

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store():
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    return torch.distributed.HashStore()


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "names, message",
    [
        ({"RANK": "1"}, "RANK = 1 and WORLD_SIZE = 1: torchrun sets both"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2 and WORLD_SIZE = 2"),
        ({"RANK": "one"}, "RANK = 'one' in the environment: a whole number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE = '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE = 0"),
    ],
)
def test_a_rank_that_cannot_be_is_one_line(monkeypatch, names, message):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message), processes():
        pass


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as team:
        team.wait()
        assert (team.rank, team.count) == (0, 1)


def test_who_falls_silent_is_named(store, clock):
    team, heard = Team(0, 2, store), {1: (0, 0.0)}
    assert team._missed(heard) is None
    clock[0] = JOINING - 1
    assert team._missed(heard) is None  # it may still be starting
    store.add("beat 1", 1)
    assert team._missed(heard) is None
    clock[0] += SILENT - 1
    assert team._missed(heard) is None
    clock[0] += 2
    assert "process 1 of 2 was not heard of" in team._missed(heard)
    store.set("done 1", "")
    assert team._missed(heard) is None


def test_who_never_starts_is_named_within_a_minute(store, clock):
    clock[0] = 59.0
    assert "process 1 of 2" in Team(0, 2, store)._missed({1: (0, 0.0)})


def test_who_fails_is_quoted(store, monkeypatch):
    monkeypatch.setattr(room, "BEAT", 0.001)
    failing = Team(1, 2, store)
    failing.start()
    failing.end("process 1 of 2 stopped, 'no space'")
    assert Team(0, 2, store)._missed({1: (0, 0.0)}) == "process 1 of 2 stopped, 'no space'"


def test_everybody_waits_for_everybody(store, monkeypatch):
    monkeypatch.setattr(room, "BEAT", 0.001)
    teams, met = [Team(rank, 3, store) for rank in range(3)], []

    def come(team):
        for meeting in range(3):
            team.wait()
            met.append((meeting, team.rank))
        team.end("")

    threads = [threading.Thread(target=come, args=(team,)) for team in teams]
    for team in teams:
        team.start()
    for thread in threads[:2]:
        thread.start()
    assert not met
    threads[2].start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(met) == met or {m for m, _ in met[:3]} == {0}
    assert sorted(met) == [(meeting, rank) for meeting in range(3) for rank in range(3)]
    assert store.check(["done 0", "done 1", "done 2"])


def test_a_lost_process_interrupts_whatever_is_done(monkeypatch):
    team = Team(0, 2)
    before = []
    team.interrupted(lambda *_: before.append("as before"), signal.SIGINT, None)
    assert before == ["as before"]
    team._why = "process 1 of 2 was lost"
    with pytest.raises(ValueError, match="process 1 of 2 was lost: start the same command again"):
        team.interrupted(None, signal.SIGINT, None)


# Two real processes ------------------------------------------------------------------------------

TINY = """
    groups=F parts=main,identity
    task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=32 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=48
    pretrain.steps=300 pretrain.rows=16 train.steps=20 train.rows=4 adapter.rank=4
"""


@pytest.fixture
def pair(tmp_path):
    """Start a study in two processes that know each other as on two machines, without torchrun."""

    def start(*arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        (tmp_path / "matplotlib.py").write_text("raise ImportError")
        command = [sys.executable, "-m", "recycle", "study", "two-hop", "--quiet"]
        command += ["--matmul=default", *(f"--set={word}" for word in TINY.split()), *arguments]
        started = []
        for rank in ("0", "1"):
            names = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            names |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
            names |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch's own lines about the store
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            environment = {**os.environ, **names}
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return started

    return start


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_ends_the_other_and_the_next_start_goes_on(pair, tmp_path, killed):
    run = tmp_path / "run"
    started = pair(f"--run={run}")
    dying, other = started[killed], started[1 - killed]
    # The first process makes the standard base, the second the other one.
    wait_for(run / ("seed-0/identity" if killed else "seed-0/standard") / "made.jsonl", dying)
    dying.send_signal(signal.SIGKILL)
    at = time.monotonic()
    _, err = other.communicate(timeout=120)
    assert time.monotonic() - at < 60 and other.returncode == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("recycle: ") and "start the same command again on every machine" in line
    dying.communicate()
    for process in pair(f"--run={run}"):
        _, err = process.communicate()
        assert process.returncode == 0, err
    alone = [sys.executable, "-m", "recycle", "study", "two-hop", "--quiet", "--matmul=default"]
    alone += [*(f"--set={word}" for word in TINY.split()), f"--run={tmp_path / 'alone'}"]
    names = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    subprocess.run(alone, cwd=ROOT, env={**os.environ, **names}, check=True, capture_output=True)
    files = [(folder / "metrics.jsonl").read_bytes() for folder in (run, tmp_path / "alone")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_what_one_process_is_refused_ends_both(pair, tmp_path):
    (tmp_path / "file").write_text("")
    ended = [(p.communicate(timeout=120), p.returncode) for p in pair(f"--run={tmp_path}/file/run")]
    assert [code for _, code in ended] == [2, 2]
    for (_, err), _ in ended:
        assert len(err.strip().splitlines()) == 1 and "cannot be written" in err


@pytest.mark.slow
def test_the_readmes_line_for_torchrun_works_as_typed(tmp_path):
    """On one machine, with a small study in the place of the full one."""
    text = (ROOT / "recycle" / "README.md").read_text()
    (start,) = (at for at in text.split("\n    ") if at.startswith("torchrun "))
    line = text[text.index(start) :].split("\n\n")[0].replace("\\\n", " ").split()
    assert line[line.index("-m") + 1 : line.index("-m") + 3] == ["--", "recycle"]
    command = line[line.index("-m") :]
    command[command.index("--run") + 1] = str(tmp_path / "run")
    command += ["--quiet", "--matmul=default", *(f"--set={w}" for w in TINY.split())]
    command[command.index("--preset") + 1] = "quick"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    names = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    environment = {**os.environ, **names}
    done = subprocess.run(
        [*launch, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and (tmp_path / "run" / "report.html").exists(), done.stderr
