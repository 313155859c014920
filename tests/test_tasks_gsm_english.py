"""Word problems in plain English: our own stories against brute force, and a user's files."""

import json
import re

import pytest

from tasks import gsm_english
from tasks.arithmetic import run
from tasks.gsm_english import OUTCOMES, STORIES, GsmEnglish, GsmEnglishConfig, own_problem
from tasks.gsm_symbolic import LEVELS
from tasks.word_problem import RENDERINGS
from tasks.world import Leak

EXAMPLE = own_problem(STORIES[0], "Ann", dict(zip("nmpkbd", (4, 5, 10, 8, 20, 10), strict=True)))


@pytest.fixture(scope="module")
def world():
    return GsmEnglish(GsmEnglishConfig(expert_problems=30, questions=12), 3)


def test_the_docstrings_example():
    text = " ".join(gsm_english.__doc__.split())
    assert EXAMPLE.solutions["P2"]["prose"] in text
    lines = EXAMPLE.solutions["P2"]["python"].split("\n")
    assert ", ".join(lines) + ":" in text
    assert EXAMPLE.questions["base"].split(". ")[0] in text


def test_ten_thousand_problems_against_brute_force():
    world = GsmEnglish(GsmEnglishConfig(expert_problems=10_000, questions=5), 0)
    for problem in world.read:
        n, m, p, k, b, d = map(int, re.findall(r"[0-9]+", problem.questions["P2"]))
        price = sum([p] * (n + m))
        right = {"base": price}
        right["P1"] = price + b if n + m > k else price
        right["P2"] = right["P1"] * (100 - d) / 100
        for level in LEVELS:
            solutions = problem.solutions[level]
            done, whole = run(solutions["python"])
            assert whole and done[-1].name == "answer" and done[-1].value == right[level]
            for rendering in ("prose", "markdown"):
                assert re.findall(r"[0-9]+", solutions[rendering])[-1] == f"{right[level]:.0f}"


def test_right_answers_are_right_and_levels_are_nested(world):
    for group in (*RENDERINGS, "base"):
        for form in LEVELS:
            for q in world.questions(group, form):
                assert world.score(q, q.completion) == "right"
                assert world.score(q, f" {q.completion}\n") == "right"
                assert world.score(q, "") == "no number"
    for problem in world.asked:
        clauses = [problem.questions[level].split(". ") for level in LEVELS]
        assert [len(each) for each in clauses] == [len(clauses[0]) + i for i in range(3)]
    assert len(world.in_context("python")) == len(world.asked)
    joint = world.expert_texts("base", "prose") + world.expert_texts("P1", "prose")
    assert world.expert_texts("joint", "prose") == joint and world.words() == []
    with pytest.raises(ValueError, match="no expert reads 'P3' in 'prose'"):
        world.expert_texts("P3", "prose")


@pytest.mark.parametrize(
    "rendering, said, outcome",
    [
        ("prose", "So it is 99.", "right"),
        ("prose", "So it is $99.00 in all", "right"),
        ("prose", "It is 99, or 100", "wrong number"),
        ("prose", "many", "no number"),
        ("python", "answer = 90 + 9", "right"),
        ("python", "x = 9\n  answer = 99", "no number"),
        ("python", "answer = 99 # ; answer = 5", "no number"),
        ("python", "import os\nanswer = 99", "no number"),
        ("python", "answer = 9 ** 9", "no number"),
        ("python", "answer = 98", "wrong number"),
    ],
)
def test_answers_are_scored_by_their_last_number(world, rendering, said, outcome):
    text = world._text(EXAMPLE, "P2", rendering)
    question = gsm_english.Question("P2", text.prompt, text.completion, "99", rendering)
    assert world.score(question, said) == outcome and outcome in OUTCOMES


def test_a_planted_leak_is_found():
    world = GsmEnglish(GsmEnglishConfig(expert_problems=5, questions=5), 0)
    world.read.append(world.asked[0])
    with pytest.raises(Leak, match="an expert reads a question of the test"):
        world.check_leaks()


def files(folder, stories=4, instances=3):
    paths = []
    for level in LEVELS:
        rows = [
            {
                "id": 10 * story + LEVELS.index(level),
                "instance": i,
                "question": f"Story {story}, {level}: {i} cups?",
                "answer": f"It is so.\n#### {i + story}",
                "original_id": story,
            }
            for story in range(stories)
            for i in range(instances)
        ]
        paths.append(folder / f"{level}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict(zip(("base", "p1", "p2"), map(str, paths), strict=True))


def test_a_users_files_are_read_by_experts_and_asked(tmp_path):
    world = GsmEnglish(GsmEnglishConfig(questions=5, expert_problems=4, **files(tmp_path)), 0)

    def stories(texts):
        return {re.search(r"Story (\d)", text)[1] for text in texts}

    asked = stories(q.prompt for q in world.questions("prose", "P2"))
    read = stories(t.prompt for t in world.expert_texts("joint", "prose"))
    assert asked and read and not asked & read
    assert len(world.questions("prose", "P2")) == 5 and len(world.read) == 4
    for level in LEVELS:
        for q in world.questions("prose", level):
            assert level in q.prompt and world.score(q, q.completion) == "right"
    with pytest.raises(ValueError, match="in prose alone, set groups=prose"):
        world.questions("python", "P2")


def test_too_few_files_or_stories_are_explained(tmp_path):
    with pytest.raises(ValueError, match="name all or none"):
        GsmEnglishConfig(base="x.jsonl")
    config = GsmEnglishConfig(**files(tmp_path, stories=1))
    with pytest.raises(ValueError, match="1 stories stand in all three files"):
        GsmEnglish(config, 0)
