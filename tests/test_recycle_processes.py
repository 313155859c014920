"""Processes that share a study: they wait for each other, and end together.

The slow tests start real processes, as torchrun does on several machines.
"""

import json
import multiprocessing
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
from recycle.run.disk import digest
from recycle.run.jobs import Job, work_through
from recycle.run.ledger import Ledger
from recycle.run.processes import JOINING, SILENT, Team, processes
from recycle.studies import Study
from recycle.studies.two_hop import TWO_HOP
from recycle.study import collect, jobs
from recycle.train.settings import assignments, change

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


@pytest.fixture
def together(store, monkeypatch):
    """Let three processes, which are threads here, do the same; what each gives, by rank."""
    monkeypatch.setattr(room, "BEAT", 0.001)

    def do(what):
        teams, gave = [Team(rank, 3, store) for rank in range(3)], {}

        def act(team):
            team.start()
            gave[team.rank] = what(team)
            team.end("")

        threads = [threading.Thread(target=act, args=(team,)) for team in teams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        return [gave[rank] for rank in range(3)]

    return do


def test_each_process_hears_the_words_of_all(together):
    def meet(team):
        return [team.wait(f"{team.rank} at {meeting}") for meeting in range(2)]

    assert together(meet) == [[[f"{rank} at {m}" for rank in range(3)] for m in range(2)]] * 3
    assert Team().wait("alone") == ["alone"]


def test_what_is_claimed_belongs_to_one_process(together):
    names = [f"job {i}" for i in range(20)]
    claimed = together(lambda team: [name for name in names if team.claim(name)])
    assert sorted(name for own in claimed for name in own) == sorted(names)
    assert all(Team().claim("job") for _ in range(2))


def test_the_work_of_all_is_counted(together):
    def work(team):
        for _ in range(10):
            team.worked(team.rank)
        team.wait()
        while team.worked(0) < 30:  # heard with the next heartbeat
            pass
        return team.worked(0)

    assert together(work) == [30, 30, 30]
    assert [Team().worked(2), Team().worked(0)] == [2, 0]


# Jobs ---------------------------------------------------------------------------------------------


def a_job(folder, made, name, needs=(), place="here", stage=0, cost=1.0):
    """It makes a file of its name, where those that it needs must stand."""

    def make():
        assert all((folder / each).exists() for each in needs)
        made.append(name)
        (folder / name).write_text("")

    path = folder / name
    return Job(name, place, stage, cost, frozenset(needs), path.exists, make)


def test_every_job_is_done_once_and_after_what_it_needs(together, tmp_path, monkeypatch):
    monkeypatch.setattr("recycle.run.jobs.PAUSE", 0.001)
    made = []
    bases = [a_job(tmp_path, made, f"base{i}", place=i) for i in range(4)]
    passes = [a_job(tmp_path, made, f"pass{i}", [f"base{i}"], i, 1) for i in range(4)]
    cells = [
        a_job(tmp_path, made, f"cell{i}.{j}", [f"base{i}", f"pass{i}"], i, 2)
        for i in range(4)
        for j in range(5)
    ]
    todo = [*cells, *passes, *bases]
    together(lambda team: work_through(todo, team, tmp_path))
    assert sorted(made) == sorted(job.name for job in todo)


def test_a_process_alone_finishes_a_place_and_takes_the_dearest_first(tmp_path):
    made = []
    todo = [
        a_job(tmp_path, made, "cheap", place=1),
        a_job(tmp_path, made, "dear", place=2, cost=9.0),
        a_job(tmp_path, made, "on cheap", ["cheap"], 1, 1),
        a_job(tmp_path, made, "on dear", ["dear"], 2, 1),
        a_job(tmp_path, made, "dear on dear", ["dear"], 2, 1, 5.0),
        a_job(tmp_path, made, "needs what was there", ["before"], 1, 1),
    ]
    (tmp_path / "before").write_text("")
    work_through(todo, Team(), tmp_path)
    ends = ["cheap", "on cheap", "needs what was there"]
    assert made == ["dear", "dear on dear", "on dear", *ends]


def test_one_of_several_takes_what_others_wait_for(store, tmp_path):
    """Another place's base before the cells of the place that is open."""
    made = []
    todo = [
        a_job(tmp_path, made, "base1", place=1, cost=2.0),
        a_job(tmp_path, made, "cell2", ["base2"], 2, 1),
        a_job(tmp_path, made, "cell1", ["base1"], 1, 1),
        a_job(tmp_path, made, "base2", place=2),
    ]
    team = Team(0, 2, store)
    team.claim, team.wait = lambda name: True, lambda: None
    work_through(todo, team, tmp_path)
    assert made == ["base1", "base2", "cell2", "cell1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_keep_one_ledger_whole(tmp_path, monkeypatch):
    ledger, count = Ledger(tmp_path), 40
    ledger.begin(0, "standard", {})

    def write(rank):
        os.environ["RANK"] = str(rank)
        for i in range(count):
            ledger.sign(f"cells/{rank}.{i}", digest(b"%d" % i))
            ledger.write_json("shared", i)  # one name by all: right by any line

    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=write, args=(rank,)) for rank in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    for rank in range(3):
        for i in range(count):
            ledger.verify(f"cells/{rank}.{i}", digest(b"%d" % i))
    assert ledger.read_json("shared", int) == count - 1 and ledger.head["base"] == "standard"
    with pytest.raises(ValueError, match="cells/1.1 is not what this run made there"):
        ledger.verify("cells/1.1", digest(b"2"))


def test_a_line_that_a_stop_tore_costs_no_other(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.begin(0, "standard", {})
    monkeypatch.setenv("RANK", "2")
    ledger.sign("one", "1")
    with open(tmp_path / "made.2.jsonl", "ab") as file:
        file.write(b'{"name": "tor')
    ledger.sign("two", "2")
    assert ledger.knows("one") and ledger.knows("two") and not ledger.knows("tor")


def test_what_a_base_writes_for_its_experts_is_written_once(tmp_path, monkeypatch):
    """The texts on disk are those that were drawn, and whoever opens the base later reads them."""
    tiny = change(TWO_HOP.default, assignments(TINY.split()) | {"pretrain.steps": 3})
    (place,) = Study(TWO_HOP, change(tiny, {"parts": ("main",)})).bases
    study = Study(TWO_HOP, tiny)
    base = study.open_base(*place, tmp_path)
    drawn = base.answered_texts
    assert base.preserved("answers")[0] == drawn and any(drawn.values())
    again = study.open_base(*place, tmp_path)
    monkeypatch.setattr("recycle.train.base.complete", None)
    assert again.preserved("answers") == (drawn, again.world.shares())


def test_a_lost_process_interrupts_whatever_is_done(monkeypatch):
    team = Team(0, 2)
    before = []
    team.interrupted(lambda *_: before.append("as before"), signal.SIGINT, None)
    assert before == ["as before"]
    team._why = "process 1 of 2 was lost"
    with pytest.raises(ValueError, match="process 1 of 2 was lost: start the same command again"):
        team.interrupted(None, signal.SIGINT, None)


@pytest.mark.study
def test_numbers_do_not_depend_on_who_does_which_job(tmp_path, monkeypatch):
    """Three processes take turns here: each opens the base for itself, and knows the disk alone."""
    settings = assignments(TINY.split()) | {"parts": "preservation", "pretrain.steps": 3}
    study = Study(TWO_HOP, change(TWO_HOP.default, settings))
    numbers = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        by_stage = sorted(jobs(study, folder), key=lambda job: job.stage)
        for i, job in enumerate(by_stage):
            if count > 1:
                monkeypatch.setenv("RANK", str(i % count))
                (job,) = (own for own in jobs(study, folder) if own.name == job.name)
            if i == 0:
                seed, spec = job.place
                Ledger(folder / f"seed-{seed}/{spec.name}").begin(seed, spec.name, {})
            assert not job.is_made()
            job.make()
            assert job.is_made()
        monkeypatch.setenv("RANK", "0")
        collect(study, folder)
        numbers.append((folder / "metrics.jsonl").read_bytes())
    assert numbers[0] == numbers[1]
    assert (tmp_path / "3/seed-0/standard/made.2.jsonl").exists()
    assert not (tmp_path / "1/seed-0/standard/made.2.jsonl").exists()


# Real processes -----------------------------------------------------------------------------------

TINY = """
    groups=F parts=main,identity
    task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=32 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=48
    pretrain.steps=300 pretrain.rows=16 train.steps=20 train.rows=4 adapter.rank=4
"""


@pytest.fixture
def start(tmp_path):
    """Start a study in processes that know each other as on several machines, without torchrun."""

    def started(*arguments, count=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        (tmp_path / "matplotlib.py").write_text("raise ImportError")
        command = [sys.executable, "-m", "recycle", "study", "two-hop", "--quiet"]
        command += ["--matmul=default", *(f"--set={word}" for word in TINY.split()), *arguments]
        running = []
        for rank in range(count):
            names = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
            names |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
            names |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch's own lines about the store
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            environment = {**os.environ, **names}
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return running

    return started


def alone(folder, *arguments):
    """metrics.jsonl of the same study in one process."""
    command = [sys.executable, "-m", "recycle", "study", "two-hop", "--quiet", "--matmul=default"]
    command += [*(f"--set={word}" for word in TINY.split()), f"--run={folder / 'alone'}"]
    command += arguments
    names = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **names}, check=True, capture_output=True)
    return (folder / "alone" / "metrics.jsonl").read_bytes()


def has_made_something(run, rank):
    """Whether a process of this rank has noted a file that it makes."""
    if rank:
        return any(run.glob(f"seed-0/*/made.{rank}.jsonl"))
    return any(path.read_text().count("\n") > 1 for path in run.glob("seed-0/*/made.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_ends_the_other_and_the_next_start_goes_on(start, tmp_path, killed):
    run = tmp_path / "run"
    running = start(f"--run={run}")
    dying, other = running[killed], running[1 - killed]
    while not has_made_something(run, killed):
        assert dying.poll() is None, dying.communicate()
        time.sleep(0.05)
    dying.send_signal(signal.SIGKILL)
    at = time.monotonic()
    _, err = other.communicate(timeout=120)
    assert time.monotonic() - at < 60 and other.returncode == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("recycle: ") and "start the same command again on every machine" in line
    dying.communicate()
    for process in start(f"--run={run}", count=2 + killed):  # as many as before, or more
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert (run / "metrics.jsonl").read_bytes() == alone(tmp_path)


@pytest.mark.slow
def test_processes_share_one_base_and_change_no_number(start, tmp_path):
    """Its passes and cells: nothing is made twice, and every process makes something."""
    numbers = alone(tmp_path, "--set=parts=main")
    for count in (2, 3):
        run = tmp_path / str(count)
        for process in start(f"--run={run}", "--set=parts=main", count=count):
            _, err = process.communicate()
            assert process.returncode == 0, err
        assert (run / "metrics.jsonl").read_bytes() == numbers
        noted = [path.read_text().splitlines() for path in run.glob("seed-0/*/made*.jsonl")]
        cells = [
            name
            for lines in noted
            for line in lines
            if (name := json.loads(line).get("name", "")).startswith(("cells/", "inside/"))
        ]
        by_rank = [any(run.glob(f"seed-0/*/made.{rank}.jsonl")) for rank in range(1, count)]
        assert all(by_rank) and len(cells) == sum(
            len(list((run / "seed-0").glob(f"*/{folder}/*.json"))) for folder in ("cells", "inside")
        )
        (environment,) = json.loads((run / "env.json").read_text())
        assert len(environment["commands"]) == 1


@pytest.mark.slow
def test_what_one_process_is_refused_ends_both(start, tmp_path):
    (tmp_path / "file").write_text("")
    ended = [
        (p.communicate(timeout=120), p.returncode) for p in start(f"--run={tmp_path}/file/run")
    ]
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
