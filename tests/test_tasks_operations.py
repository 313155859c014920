"""Problems with complementary operations: brute force, splits, scores by hand."""

import dataclasses
import random
import re

import pytest

from tasks import operations
from tasks.arithmetic import run
from tasks.operations import (
    FORMS,
    GRID,
    LONGEST,
    NEUTRAL,
    NEW,
    PAIRS,
    STEP_FORMS,
    Operations,
    OperationsConfig,
    Problem,
    ReadingShares,
    draw,
    ordered,
)
from tasks.word_problem import RENDERINGS, Step
from tasks.world import Leak

SMALL = OperationsConfig(problems=200, expert_problems=60, questions=12)
EXAMPLE = Problem(
    (
        Step("apples", "", 5, 0, 5),
        Step("pears", "+", "apples", 6, 3),
        Step("figs", "*", "pears", 3, 1),
    ),
    ("plus", "times"),
    "how many {name} are there ?",
)


@pytest.fixture(scope="module")
def world():
    return Operations(SMALL, seed=3)


def ask(world, rendering, problem=EXAMPLE):
    return world._question(problem, "mixed", rendering)


def test_the_docstrings_example(world):
    text = " ".join(operations.__doc__.split())
    assert EXAMPLE.prompt("prose") in text
    for rendering in RENDERINGS:
        solution = ask(world, rendering).completion
        assert f"{rendering} {solution}" in text


def brute_force(prompt, hours):
    """The answer by reading the clauses alone, with none of the world's code."""
    values = {}
    *clauses, question = prompt.split(" . ")
    for clause in clauses:
        words = clause.split()
        if words[:2] == ["there", "are"]:
            values[words[3]] = int(words[2])
            continue
        left, operation, right, _, name = words
        a, b = (values[x] if x in values else int(x) for x in (left, right))
        if operation == "plus":
            value = a + b
        elif operation == "times":
            value = sum([a] * b)
        elif operation == "minus":
            value = a + hours - b
        else:
            bits = [(a // 2**k % 2, b // 2**k % 2) for k in range(10)]
            enough = {"meet": (2,), "join": (1, 2), "xor": (1,)}[operation]
            value = sum(2**k for k, own in enumerate(bits) if sum(own) in enough)
        while value >= hours:
            value -= hours
        values[name] = value
    return next(values[word] for word in question.split() if word in values)


def test_ten_thousand_problems_against_brute_force():
    rng = random.Random(0)
    for i in range(10_000):
        hours = (8, 16, 32)[i % 3]
        pair = (*PAIRS, NEW)[i % 7]
        counts = GRID[i % len(GRID)]
        problem = draw(ordered(pair, counts, rng), hours, rng)
        assert [problem.operations.count(each) for each in pair] == list(counts)
        right = brute_force(problem.prompt("prose"), hours)
        assert problem.steps[-1].value == right
        prose, markdown, python = (problem.text(r, hours).completion for r in RENDERINGS)
        assert prose.endswith(f"the answer is {right} .")
        assert markdown.endswith(f"answer : {right}")
        done, whole = run(python)
        assert whole and done[-1].name == "answer" and done[-1].value == right
        for k, step in enumerate(problem.steps[1:]):
            single = problem.single(k)
            assert brute_force(single.prompt("prose"), hours) == step.value


def test_right_answers_are_right_and_fit(world):
    words = set(world.words())
    for group in (*RENDERINGS, "base"):
        counts = set()
        for form in FORMS:
            questions = world.questions(group, form)
            counts.add(len(questions))
            for q in questions:
                assert world.score(q, q.completion) == "right"
                notes = world.notes(q, q.completion)
                assert notes["last number right"] and set(notes) <= set(world.note_names)
                assert not any(v for name, v in notes.items() if name.startswith("first error"))
                assert set(str(q.text).split()) <= words
                assert len(q.completion.split()) < world.longest
                assert len({tuple(world.notes(other, "")) for other in questions}) == 1
        assert counts == {SMALL.questions * (3 if group == "base" else 1)}
    for reads in (*NEW, "joint", "target"):
        assert all(set(str(t).split()) <= words for t in world.expert_texts(reads, "python"))
    assert all(set(str(t).split()) <= words for own in world.base_texts().values() for t in own)


def test_the_grid_is_asked_evenly_and_the_steps_are_those_of_the_mixed_problems(world):
    mixed = world.questions("python", "mixed")
    for i, q in enumerate(mixed):
        plus, times = GRID[i % len(GRID)]
        assert world.notes(q, q.completion)[f"right at {plus} + {times}"]
        assert world.notes(q, "")[f"asked at {plus} + {times}"]
        assert not world.notes(q, "")[f"right at {plus} + {times}"]
        for form, k in zip(STEP_FORMS, range(1, LONGEST + 1), strict=True):
            single = world.questions("python", form)[i].problem
            step = q.problem.steps[k if k <= plus + times else 1]
            assert single.steps[1] == step and len(single.steps) == 2
        pure = [world.questions("python", each)[i].problem for each in NEW]
        assert [p.operations for p in pure] == [(each,) * (plus + times) for each in NEW]
    longer = world.questions("prose", "longer")
    assert all(len(q.problem.operations) == LONGEST + 1 for q in longer)
    assert all(set(q.problem.operations) == set(NEW) for q in longer)
    asked = [set(q.problem.operations) for q in world.questions("base", "mixed")]
    assert all(asked.count(set(pair)) == len(asked) / 2 for pair in world.held_out)
    old = [set(q.problem.operations) for q in world.questions("base", "neutral")]
    assert all(own in map(set, world.mixed) for own in old)


def test_who_reads_what(world):
    for reads in NEW:
        kinds = [set(p.operations) for p in world.read_by[reads]]
        assert all(reads in own and len(own) <= 2 for own in kinds)
        assert {o for own in kinds for o in own} == {reads, *NEUTRAL} and {reads} in kinds
        lengths = {len(p.operations) for p in world.read_by[reads]}
        assert lengths == set(range(1, LONGEST + 1))
    both = world.expert_texts("plus", "prose") + world.expert_texts("times", "prose")
    assert world.expert_texts("joint", "prose") == both
    mixes = {tuple(sorted(set(p.operations))) for p in world.read_by["base"]}
    assert mixes == {(each,) for each in NEUTRAL} | {tuple(sorted(pair)) for pair in world.mixed}
    pure = Operations(dataclasses.replace(SMALL, mixed=0.0), 3)
    assert {len(set(p.operations)) for p in pure.read_by["base"]} == {1}
    assert pure.asked == world.asked and pure.words() == world.words()
    asked = {q.problem.graph for form in FORMS[4:] for q in world.questions("prose", form)}
    for problems in world.read_by.values():
        assert not asked.intersection(g for p in problems for g in p.beginnings())
    with pytest.raises(ValueError, match="no expert reads 'minus' in 'prose'"):
        world.expert_texts("minus", "prose")


def test_each_operation_is_held_out_of_one_pair_and_another_one_at_the_next_seed():
    held_out = [Operations(SMALL, seed).held_out for seed in range(3)]
    assert all(sorted([*first, *second]) == sorted(NEUTRAL) for first, second in held_out)
    assert sorted(pair for own in held_out for pair in own) == sorted(PAIRS)


def test_examples_are_further_mixed_problems(world):
    split = world.examples("prose", 20)
    asked = {q.problem.graph for q in world.questions("prose", "mixed")}
    drawn = {q.problem.graph for q in split.examples}
    assert len(drawn) == 20 and not drawn & asked and len(split.asked) == SMALL.questions
    read = {p.graph for problems in world.read_by.values() for p in problems}
    assert not drawn & read


def test_planted_leaks_are_found():
    world = Operations(SMALL, 0)
    world.read_by["plus"].append(world.asked["experts"]["plus"][0])
    with pytest.raises(Leak, match="plus reads the derivation of a test problem"):
        world.check_leaks()
    world = Operations(SMALL, 0)
    world.read_by["times"].append(world.read_by["target"][0])
    with pytest.raises(Leak, match="times reads plus and times in one problem"):
        world.check_leaks()
    world = Operations(SMALL, 0)
    pair = world.held_out[0]
    world.read_by["base"].append(draw(ordered(pair, (2, 2), random.Random(0)), 8, random.Random(0)))
    with pytest.raises(Leak, match=f"base reads {' and '.join(pair)} in one problem"):
        world.check_leaks()


PYTHON = "apples = 5 ; pears = apples + 6 ; figs = pears * 3 ; answer = figs % 8"
PROSE = (
    "apples are 5 . pears are apples plus 6 so 5 plus 6 which is 3 . "
    "figs are pears times 3 so 3 times 3 which is 1 . the answer is 1 ."
)


@pytest.mark.parametrize(
    "rendering, said, outcome",
    [
        ("python", PYTHON, "right"),
        ("python", PYTHON.replace("apples + 6", "6 + apples"), "right"),
        ("python", PYTHON.replace("pears * 3", "pears + 3"), "wrong operation"),
        ("python", PYTHON.replace("pears * 3", "pears * 2"), "wrong quantity"),
        ("python", PYTHON.replace("figs % 8", "figs"), "wrong quantity"),
        ("python", PYTHON.replace("figs % 8", "1"), "right answer, wrong trace"),
        ("python", PYTHON.replace("figs % 8", "figs % 7"), "wrong quantity"),
        ("python", PYTHON.replace("apples = 5 ;", "apples = 5 ; ;"), "malformed"),
        ("python", PYTHON.replace(" ; answer = figs % 8", ""), "stopped early"),
        ("python", PYTHON + " ; nuts = 1", "right answer, wrong trace"),
        ("prose", PROSE, "right"),
        ("prose", PROSE.replace("is 3 . figs", "is 4 . figs"), "right answer, wrong trace"),
        ("prose", PROSE.replace("which is 1 . the answer is 1", "which is 9 . the answer is 9"),
         "wrong arithmetic"),
        ("prose", "", "stopped early"),
    ],
)  # fmt: skip
def test_scores_of_solutions_written_by_hand(world, rendering, said, outcome):
    assert world.score(ask(world, rendering), said) == outcome


@pytest.mark.parametrize(
    "values, message",
    [
        ({"hours": 11}, "task.hours = 11: 8, 16 or 32"),
        ({"mixed": 1.5}, "task.mixed = 1.5"),
        ({"questions": 0}, "task.questions = 0"),
        ({"renderings": ("latex",)}, "one or more of prose, markdown"),
        ({"shares": ReadingShares(prose=0, markdown=0, python=0)}, "task.shares gives nothing"),
    ],
)
def test_impossible_configurations_are_explained(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OperationsConfig(**values)


def test_too_small_a_world_is_explained():
    with pytest.raises(ValueError, match="too few different problems with 2 minus: raise"):
        Operations(dataclasses.replace(SMALL, hours=8, questions=600), 0)
