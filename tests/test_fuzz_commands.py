"""Thousands of odd command lines and GSM-Symbolic files: each is refused in one line that names the
option, the key or the file, or it is legal. What is legal is judged here, apart from the program.

    python -m pytest -m slow -s tests/test_fuzz_commands.py
"""

import contextlib
import io
import json
import math
import re
import shutil
from random import Random

import pytest

from recycle.__main__ import main
from recycle.commands import runs
from recycle.studies import DESIGNS
from recycle.train.settings import settable
from tests.fuzz import Counts, json_bytes, mutate_bytes, mutate_json, mutate_text
from tests.tiny import HOP1, HOP2, make_run

pytestmark = pytest.mark.slow
SEED = 14
# Small worlds: each setting is tried on a study that is made up to its first base.
SMALL = {
    "two-hop": "task.people=60 task.cities=12 task.triples=8 task.set_cities=4",
    "history": "parts=main groups=NK-M task.people=80 task.new=40 task.values=10",
    "composition": "parts=main groups=NN-R task.people=80 task.new=40 task.values=10",
    "word-math": "groups=prose task.problems=40 task.expert_problems=10 task.questions=4",
    "operations": "groups=prose task.problems=40 task.expert_problems=10 task.questions=6",
    "languages": "groups=shared task.lists=40 task.expert_lists=10 task.questions=6",
}
ODD = (
    "nan inf -inf 0 -1 1 2 3 -0.0 0.5 1.0 1.5 1e-40 1e39 1e400 1e30 99999 4294967295 4294967296 "
    "0x10 1_0 ١ True False None true () [1] {} 1,1 F,F main,main ,, a=b "
    "../../x /abs .hidden q_proj *q_proj [ ( nose lora full corpus question prose,prose"
).split()
ODD += ["", " ", "1" * 30, "1" * 5000, "-" * 3000 + "1", "(" * 3000, "x" * 5000]
ODD += ["a\nb", "\x1b[31m", "\u2028", "\ud800", "1 2", "3;4", "1e5 "]
# Legal values by the last part of a key: (least, most), which an expression may leave open.
WHOLE = {
    "steps rows length cities triples set_cities new questions problems expert_problems": 1,
    "lists expert_lists": 1,
    "rank layers heads kv_heads hidden width context fewest": 1,
    "people person_relations attributes values": 2,
    "limit": 8,
    "distractors micro_batch": 0,
}
INTERVALS = {
    "lr": "0 < x <= 10",
    "init": "0 < x <= 10",
    "alpha": "0 < x <= 1e6",
    "clip": "0 < x < inf",
    "warmup dose reuse shuffled mixed": "0 <= x <= 1",
    "beta2 preservation": "0 <= x < 1",
    "weight_decay": "0 <= x <= 100",
    "rope_base": "1 <= x <= 1e12",
    "question_share": "0 < x <= 1",
    "held_out exposed pairs": "0 < x < 1",
    "statement hop1 hop2 direct cot identity facts prose markdown python": "0 <= x <= 1000",
    "words programs signs": "0 <= x <= 1000",
}
CHOICES = {
    "kind": ("lora", "full"),
    "preserve_from": ("corpus", "answers", "sampled"),
    "longest": (3, 4, 5, 6),
    "hours": (8, 16, 32),
    "order": ("question", "possessive"),
    "packed unique_family": (True, False),
}


def by_word(table):
    return {word: rule for words, rule in table.items() for word in words.split()}


WHOLE, INTERVALS, CHOICES = by_word(WHOLE), by_word(INTERVALS), by_word(CHOICES)


def legal(design, key, value):
    """Whether a study may have this value, as far as the value alone can say."""
    last = key.split(".")[-1]
    if last in CHOICES:
        return value in CHOICES[last]
    if last in WHOLE:
        return type(value) is int and WHOLE[last] <= value <= 10**9
    if last in INTERVALS:
        return type(value) is float and eval(INTERVALS[last], {"x": value, "inf": math.inf})
    known = {
        "seeds": range(2**32),
        "spare_seeds": range(2**32),
        "groups": design.world.groups,
        "parts": design.parts,
        "renderings": ("prose", "markdown", "python"),
        "patterns": None,
    }[last]
    once = (len(value) > 0 or last == "spare_seeds") and len(set(value)) == len(value)
    return once and (known is None or all(each in known for each in value))


def call(*words):
    """(exit code, output, error lines) of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue().strip("\n").split("\n")


def refused(counts, tried, code, lines, names):
    """Count a refusal. It is a fault unless it is one line of at most 300 characters with a name
    in it."""
    line = lines[0]
    if code != 2 or len(lines) != 1 or not line.isprintable() or len(line) > 300:
        counts.wrong(tried, f"exit {code}, {len(lines)} lines, {line[:100]!r}")
    elif not any(name in line for name in names):
        counts.wrong(tried, f"names none of {names}: {line[:200]!r}")
    else:
        counts.refused += 1


def finish(name, counts, tried, least):
    print(f"{name}: {tried} tried, {counts}")
    for fault in counts.faults[:10]:
        print("  ", fault)
    assert not counts.faults
    assert counts.right >= least and counts.refused >= least  # neither all nor nothing passes


@pytest.fixture
def accepted(monkeypatch):
    """The studies that would be made now; nothing is trained or written."""
    made = []
    monkeypatch.setattr(runs, "run_study", lambda study, *rest: made.append(study))
    monkeypatch.setattr(runs, "launch", lambda words, processes: 0)
    for name in (
        "_write_report",
        "describe_environment",
        "choose_matmul",
        "_agreed_ways",
        "claim_folder",
    ):
        monkeypatch.setattr(runs, name, lambda *ignored: None)
    return made


def odd_setting(rng, key, value):
    if rng.random() < 0.3:  # near the value that stands there
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if type(value) is float:
            return str(value * rng.choice((0.5, 0.9, 1.1, 2, -1)))
        if type(value) is int and not key.endswith("problems"):
            return str(value + rng.choice((-2, -1, 1, 2)))
        return rng.choice((text, mutate_text(text, rng)))
    return rng.choice(ODD)


def test_every_setting_is_legal_or_refused(accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an accepted study keeps its minutes in --run=x
    rng, counts, tries = Random(SEED), Counts(), 2000
    for _ in range(tries):
        design = DESIGNS[rng.choice([*SMALL, *["two-hop"] * 5])]
        small = SMALL[design.name].split()
        key, value = rng.choice(list(settable(design.default)))
        text = odd_setting(rng, key, value)
        if rng.random() < 0.05:
            key = mutate_text(key, rng)
        tried = [design.name, *small, f"{key}={text}"]
        accepted.clear()
        try:
            code, _, lines = call(
                "study", design.name, *(f"--set={each}" for each in tried[1:]), "--run=x"
            )
        except Exception as error:
            counts.wrong(tried, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        if code == 0:
            found = dict(settable(accepted[0].config))
            place = key.strip()
            if place in found and legal(design, place, found[place]):
                counts.right += 1
            else:
                counts.wrong(tried, f"accepted: {found.get(place)!r}")
        else:
            names = [key.split(".")[-1].strip()[:10], "task.", "model.", "adapter.", "--set"]
            refused(counts, tried, code, lines, names)
    finish("settings", counts, tries, 200)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


COMMANDS = (
    "eval RUN HOP1 --group F --show 1",
    "eval RUN HOP1 HOP2 --group F --top-k 1 --temperature 0.5 --order factors",
    "route RUN HOP1 HOP2 --group F --top-k 2 --temperature 2",
    "merge RUN HOP1 HOP2 --method plain_sum --out new",
    "merge RUN HOP1 HOP2 --method weighted_sum --out new --weights 1 -0.5",
    "merge RUN HOP1 HOP2 --method ties --set density=0.3 --out new",
    "merge RUN HOP1 HOP2 --method dare_ties_core --set density=0.5 --set seed=3 --out new",
    "merge RUN HOP1 HOP2 --method lorahub --examples 2 --set evaluations=5 --out new",
    "eval RUN HOP1 HOP2 --group F --router spectr --top-k 1",
    "eval RUN HOP1 HOP2 --group F --router centroid",
    "train RUN --reads hop1 --group F --name new --set train.steps=1 --set adapter.rank=2",
    "report RUN --record NEW --rejudge because",
    "table NEW",
    "results NEW",
    "rejudge NEW --reason because",
    "methods",
    "study two-hop --preset quick --processes 1 --run NEW",
    "study two-hop --preset methods --set groups=F --set parts=main,methods --run NEW",
    "gsm --base NEW --answers NEW",
)
WORDS = re.findall(r"--[a-z-]+|eval|route|merge|train|report|table|results|gsm", " ".join(COMMANDS))
WORDS += ["--base", "--seed", "--debug", "--quiet", "--matmul", "--", "-h0", "-5e-1", "-inf", "@x"]


def odd_command(rng):
    """A command with one or two words changed, moved, left out or added; its file names too."""
    words = rng.choice(COMMANDS).split()
    changed = []
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(words))
        match rng.randrange(6):
            case 0:
                changed.append(words.pop(at) if len(words) > 1 else "")
            case 1:
                words.insert(at, rng.choice(WORDS))
            case 2:
                words[at] = mutate_text(words[at], rng)
            case 3:
                words[at], words[-1] = words[-1], words[at]
            case _:
                words[at] = rng.choice(ODD)
    return words


def finite_gates(printed):
    return "nan" not in printed and "inf" not in re.findall(r"\w+", printed)


def test_every_command_does_its_work_or_says_why_not(run, accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recycle.show.drawing.Figure", None)
    rng, counts, tries = Random(SEED), Counts(), 1000
    library = run / "seed-0/standard/library"
    kept = {path.name for path in library.iterdir()}
    beside = {path.name for path in library.parent.iterdir()}
    places = {"RUN": run, "HOP1": HOP1, "HOP2": HOP2, "NEW": tmp_path / "new.json"}
    for _ in range(tries):
        words = [places.get(word, word) for word in odd_command(rng)]
        if "--debug" in words:  # which shows the traceback that it is asked for
            continue
        try:
            code, printed, lines = call(*words)
        except Exception as error:
            counts.wrong(words, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        finally:
            left = {path.name for path in library.iterdir()} - kept
            strays = {path.name for path in library.parent.iterdir()}
            for name in left:
                shutil.rmtree(library / name)
        if any(name.startswith(".") or not name.isprintable() for name in left):
            counts.wrong(words, f"wrote {left}")
        elif strays - beside:
            counts.wrong(words, f"wrote {strays}")
        elif code == 0 and finite_gates(printed):
            counts.right += 1
        elif code == 0:
            counts.wrong(words, f"printed {printed[:200]}")
        else:
            # An option, a file, a name, a key, or the value itself as the message quotes it.
            quoted = [ascii(str(word))[1:-1][:20] for word in words if str(word).strip()]
            keys = [str(word).split("=")[0] for word in words if "=" in str(word)]
            names = ["--", "argument", str(run), "new.json", *quoted, *filter(None, keys)]
            refused(counts, words, code, lines, names)
    finish("commands", counts, tries, 50)


ROWS = [
    {"id": t, "instance": i, "question": "q ?", "answer": f"#### {t + i}", "original_id": 10 + t}
    for t in range(3)
    for i in range(2)
]
ANSWERS = [
    {"level": "base", "id": row["id"], "instance": row["instance"], "output": "it is 2"}
    for row in ROWS
]


def sound(path, fields):
    """The rows of a file, or None where a line is no object with these fields of these types."""
    found = []
    try:
        for line in path.read_bytes().decode("utf-8-sig").split("\n"):
            if line.strip():
                found.append(json.loads(line, object_pairs_hook=lambda pairs: pairs))
    except (ValueError, RecursionError):
        return None
    for pairs in found:
        if not isinstance(pairs, list) or not all(isinstance(p, tuple) for p in pairs):
            return None
        row = dict(pairs)
        if len(row) < len(pairs) or any(type(row.get(name)) is not t for name, t in fields.items()):
            return None
        if any(t is int and row[name] < 0 for name, t in fields.items()):
            return None
    places = [tuple(dict(pairs)[k] for k in ("id", "instance")) for pairs in found]
    return found if found and len(set(places)) == len(places) else None


def test_every_gsm_file_is_sound_or_refused(tmp_path):
    rng, counts, tries = Random(SEED), Counts(), 1000
    problems, answers = tmp_path / "problems.jsonl", tmp_path / "answers.jsonl"
    of_problem = {"id": int, "instance": int, "question": str, "answer": str, "original_id": int}
    of_answer = {"level": str, "id": int, "instance": int, "output": str}
    for _ in range(tries):
        files = {problems: list(ROWS), answers: list(ANSWERS)}
        for path, rows in files.items():
            lines = [json.dumps(row).encode() for row in rows]
            if path == rng.choice((problems, answers)):
                at = rng.randrange(len(rows))
                lines[at] = json_bytes(mutate_json(rows[at], rng), rng)
            data = b"\n".join(lines)
            if rng.random() < 0.2:
                data = mutate_bytes(data, rng)
            if rng.random() < 0.1:
                data = rng.choice((b"", b"\n", data + b"\n\n", b"\xef\xbb\xbf" + data, data * 2))
            path.write_bytes(data)
        tried = [path.read_bytes()[:300] for path in files]
        try:
            code, printed, lines = call("gsm", "--base", problems, "--answers", answers)
        except Exception as error:
            counts.wrong(tried, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        if code == 0:
            if sound(problems, of_problem) and sound(answers, of_answer):
                counts.right += 1
            else:
                counts.wrong(tried, f"accepted: {printed}")
        else:
            refused(counts, tried, code, lines, ["problems.jsonl", "answers.jsonl"])
    finish("gsm", counts, tries, 50)
