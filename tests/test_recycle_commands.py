"""The command line before any work begins: settings, names, numbers, and how it ends."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from recycle.__main__ import main, shortened
from recycle.commands import runs
from recycle.options import read_options
from recycle.run import launch
from recycle.run.environment import describe_checkout
from recycle.run.names import did_you_mean, inside, listing, plain_file
from recycle.studies import DESIGNS, Study
from recycle.studies.check import check
from recycle.train.settings import assignments, change, rebuild, settable

TWO_HOP = DESIGNS["two-hop"]
SMALL = ["task.people=60", "task.cities=12", "task.triples=8", "task.set_cities=4"]


def failing(capsys, *arguments):
    """The one line that a failing command prints."""
    assert main([str(each) for each in arguments]) == 2
    (line,) = capsys.readouterr().err.strip("\n").split("\n")
    return line


@pytest.mark.parametrize(
    "setting, words",
    [
        ("train.lr=nan", "train.lr = nan: a finite number above 0"),
        ("train.lr=0", "train.lr = 0.0: a finite number above 0"),
        ("pretrain.clip=-1", "pretrain.clip = -1.0: a finite number above 0"),
        ("pretrain.weight_decay=nan", "pretrain.weight_decay = nan: a number from 0 to 100"),
        ("train.beta2=1.0", "train.beta2 = 1.0: a share from 0 to below 1"),
        (f"train.steps={10**29}", "train.steps = 1000"),
        ("adapter.alpha=inf", "adapter.alpha = inf: a finite number above 0"),
        ("adapter.rank=0", "adapter.rank = 0: a whole number from 1"),
        ("adapter.patterns=", "adapter.patterns = (): one or more patterns"),
        ("model.rope_base=0", "model.rope_base = 0.0: a number from 1"),
        ("model.init=1e30", "model.init = 1e+30: "),
        ("task.shares.cot=-1", "task.shares.cot = -1.0: a share of texts"),
        ("task.held_out=nan", "task.held_out = nan: a share between 0 and 1"),
        ("groups=F,F", "groups = ('F', 'F'): one or more names, each once"),
        ("seeds=4294967296", "each once, none below 0 or above 4,294,967,295"),
        ("train.packed=1", "must be of type bool"),
        ("train.lr=" + "-" * 5000 + "1", "must be of type float"),
        ("name=history", "no key 'name'"),
        ("train.setps=3", "no key 'setps', did you mean 'steps'"),
        ("groups=f", "no group 'f'"),
        ("parts=mian", "no part 'mian', did you mean 'main'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_key(setting, words):
    with pytest.raises(ValueError) as error:
        Study(TWO_HOP, change(TWO_HOP.default, assignments([setting])))
    assert words in str(error.value)


def test_every_setting_of_every_preset_is_legal():
    """Also when it comes back from its JSON, where a number is no text."""
    for design in DESIGNS.values():
        for name in design.presets:
            config = design.preset(name)
            assert change(config, dict(settable(config))) == config
    with pytest.raises(ValueError, match=r"config\.json has model\.width = '32': it must be of"):
        rebuild(TWO_HOP.default, {"model": {"width": "32"}}, "config.json")
    with pytest.raises(ValueError, match=r"config\.json: train\.lr = inf: a finite number"):
        rebuild(TWO_HOP.default, {"train": {"lr": float("inf")}}, "config.json")


@pytest.mark.parametrize(
    "settings, words",
    [
        ("adapter.rank=33 model.width=32", "adapter.rank = 33: layer layers.0.self_attn.q_proj"),
        ("adapter.patterns=nose", "adapter.patterns: no linear layer fits the pattern 'nose'"),
        ("parts=growth groups=F model.width=24", "adapter.rank = 32: layer"),  # of a recipe
        ("parts=growth groups=F task.people=6000", "names asked for"),
        ("pretrain.packed=False pretrain.length=20", "pretrain.length = 20: the longest text"),
        ("train.packed=False train.length=20", "train.length = 20: the longest text"),
        ("model.context=65", "model.context = 65: a question of library"),
        ("task.people=10", "task.* make no sound world (the base never reads the word"),
        ("task.question_share=1.0", "questions about base: there are none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(settings, words):
    changed = change(TWO_HOP.preset("quick"), assignments([*SMALL, *settings.split()]))
    with pytest.raises(ValueError) as error:
        check(Study(TWO_HOP, changed))
    assert words in str(error.value)
    check(Study(TWO_HOP, change(TWO_HOP.preset("quick"), assignments(SMALL))))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/abs",
        "a/b",
        "a\\b",
        "",
        " ",
        ".hidden",
        "..",
        "-x",
        "a\nb",
        "a  b",
        "a ",
        "\0",
        "é" * 60,
    ],
)
def test_a_new_name_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="--out"):
        inside(tmp_path, name, "--out")


def test_a_plain_new_name_stands_in_its_folder(tmp_path):
    assert inside(tmp_path, "both, 1.5-2_F", "--out") == tmp_path / "both, 1.5-2_F"
    (tmp_path / "taken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="exists: choose another --out"):
        inside(tmp_path, "taken", "--out")


def test_only_plain_files_are_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("")
    assert plain_file(tmp_path / "file", "--record") == plain_file(tmp_path / "file", "")
    for path, kind in ((tmp_path / "link", "a link"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"is {kind}: name a plain file"):
            plain_file(path, "--record")
    with pytest.raises(ValueError, match="/dev/null is no plain file"):
        plain_file(type(tmp_path)("/dev/null"), "--record")


def test_slips_and_long_lists_are_answered_briefly():
    assert did_you_mean("hop1-G", ["hop1-F", "joint-H"]) == ", did you mean 'hop1-F'"
    assert did_you_mean("zzz", ["hop1-F"]) == ""
    assert listing(map(str, range(20)), most=2) == "0, 1 and 18 more"
    line = shortened("a\nb\x1b[31m\u2028" + "x" * 5000 + " and the remedy")
    assert len(line) < 300 and line.isprintable() and line.endswith("and the remedy")


@pytest.mark.parametrize(
    "command, words",
    [
        ("studdy two-hop", "no choice 'studdy', did you mean 'study'"),
        ("study two-hopp", "no choice 'two-hopp', did you mean 'two-hop'"),
        ("study two-hop --preset quik", "no preset 'quik', did you mean 'quick'"),
        ("study two-hop --processes 0", "--processes: '0': a whole number from 1 on"),
        ("merge r a b --method weighted_sum --out x --weights 1 nan", "--weights: 'nan'"),
        ("merge r a b --method weighted_sum --out x --weights 1 -inf", "--weights: '-inf'"),
        ("merge r a b --method weighted_sum --out x --weights 1 1e39", "--weights: '1e39'"),
        ("eval r a --group F --show -1", "--show: '-1': a whole number from 0 on"),
        ("eval r a b --group F --top-k 0", "--top-k: '0': a whole number from 1 on"),
        ("route r a b --group F --temperature inf", "--temperature: 'inf': a finite number"),
        ("route r a b --group F --temperature 0", "--temperature: '0'"),
    ],
)
def test_bad_options_are_one_line(capsys, command, words):
    assert words in failing(capsys, *command.split())


def test_empty_paths_are_refused(capsys):
    assert "argument RUN: '': a name or a path" in failing(capsys, "report", "")
    assert "argument --run: ' '" in failing(capsys, "study", "two-hop", "--run", " ")


def test_negative_numbers_are_values_however_they_are_written():
    words = "merge r a b --method weighted_sum --out x --weights 1 -5e-1 -.5 -2".split()
    options = read_options(words)
    assert options.weights == [1, -0.5, -0.5, -2] and options.given == words


def test_a_study_records_the_arguments_that_main_was_given(monkeypatch, tmp_path):
    noted = []
    monkeypatch.setattr(runs, "run_study", lambda *ignored: None)
    monkeypatch.setattr(runs, "_write_report", lambda *ignored: None)
    monkeypatch.setattr(
        runs, "describe_environment", lambda _, command, *rest: noted.append(command)
    )
    given = ["study", "two-hop", "--matmul=default", "--run", str(tmp_path)]
    assert main([*given, *(f"--set={each}" for each in SMALL)]) == 0
    assert noted[0].startswith("python -m recycle study two-hop --matmul=default --run ")


def test_a_folder_without_records_gets_no_page(capsys, tmp_path):
    assert "holds no recorded results" in failing(capsys, "results", tmp_path)
    (tmp_path / "x.json").write_text("[1]")
    assert "x.json is no recorded result" in failing(capsys, "results", tmp_path)
    assert "x.json is no recorded result" in failing(capsys, "table", tmp_path / "x.json")
    assert not (tmp_path / "README.md").exists()


def test_a_closed_pipe_ends_quietly():
    command = [sys.executable, "-m", "recycle", "methods"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_while_modules_are_loaded_is_one_line(monkeypatch, capsys):
    def interrupt(*ignored):
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "recycle.options")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupt)])
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on from here\n"


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def allocate(options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(runs, "methods", allocate)
    assert "not enough memory" in failing(capsys, "methods")


def test_a_machine_without_git_is_no_hindrance(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(describe_checkout().values()) == {None}


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_the_first_process_that_fails_ends_the_others(monkeypatch, ending):
    """The second fails at once, the first would never end."""
    script = f"import os, signal, sys; {ending} if os.environ['RANK'] == '1' else signal.pause()"
    started, start = [], subprocess.Popen

    def instead(command, env):
        assert command[1:] == ["-m", "recycle", "study"] and env["WORLD_SIZE"] == "2"
        assert env["LOCAL_RANK"] == env["RANK"]  # which of the machine's devices it takes
        started.append(start([sys.executable, "-S", "-c", script], env=env))
        return started[-1]

    monkeypatch.setattr(launch.subprocess, "Popen", instead)
    if "kill" in ending:
        with pytest.raises(
            ValueError, match="process 1 of 2 was ended by signal 9 .* again, it goes"
        ):
            launch.launch(["study"], 2)
    else:
        assert launch.launch(["study"], 2) == 3
    assert all(process.poll() is not None for process in started)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "composition --checkpoint x",
            "--checkpoint goes with two-hop, word-math, not composition",
        ),
        ("two-hop --checkpoint /no/where", "/no/where is no folder of a checkpoint"),
        ("two-hop --checkpoint x --set model.width=64", "--set model.width: a checkpoint is"),
        ("two-hop-english", "name one with --checkpoint FOLDER or smollm2"),
        ("two-hop --set checkpoint=x", "checkpoint"),
        ("two-hop --shard --processes 2", "--shard spreads a checkpoint over several processes"),
        ("two-hop --shard --checkpoint x", "add --checkpoint and --processes N"),
    ],
)
def test_a_study_on_a_checkpoint_says_what_it_lacks(words, message, tmp_path, capsys):
    assert main(["study", *words.split(), "--quiet", "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (tmp_path / "run").exists()
