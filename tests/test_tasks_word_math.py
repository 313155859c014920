"""Word problems and their splits, and a scorer that is right on traces by hand and safe on all."""

import ast
import dataclasses
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import arithmetic, word_math, word_problem
from tasks.arithmetic import MAX_NUMBER, run
from tasks.word_math import Question, WordMath
from tasks.word_problem import (
    LEVELS,
    RENDERINGS,
    Problem,
    ReadingShares,
    Step,
    WordMathConfig,
    calculate,
    draw,
)
from tasks.word_trace import OUTCOMES, last_number
from tasks.world import Leak

SMALL = WordMathConfig(problems=300, expert_problems=60, questions=20)
# The docstring's problem, its clauses in the docstring's order.
EXAMPLE = Problem(
    (
        Step("apples", "", 5, 0, 5),
        Step("pears", "+", "apples", 3, 8),
        Step("figs", "*", "pears", 2, 16),
        Step("cakes", "-", "figs", "apples", 11),
        Step("plums", "-", "cakes", 4, 7),
    ),
    (Step("jars", "", 7, 0, 7),),
    (1, 5, 3, 4, 0, 2),
    (0, 1, 0, 0, 0, 0, 0),
)


@pytest.fixture(scope="module")
def world():
    return WordMath(SMALL, seed=3)


def ask(level, rendering, problem=EXAMPLE):
    text = problem.text(level, rendering)
    return Question(
        level, text.prompt, text.completion, str(problem.at(level)[-1].value), problem, rendering
    )


def test_the_docstrings_example():
    text = word_math.__doc__
    start, end = text.index("    apples and 3"), text.index("    base    prose")
    assert EXAMPLE.prompt("P1", "prose") == " ".join(text[start:end].split())
    shown = re.findall(r"(prose|markdown|python)  +(.*(?:\n {22}.*)*)", text[end:])
    assert len(shown) == 9
    for i, (rendering, lines) in enumerate(shown):
        solution = " ".join(lines.split())
        whole = EXAMPLE.completion(LEVELS[i // 3], rendering)
        assert whole.endswith(solution.removeprefix("... "))
        assert solution.startswith("...") or solution == whole


def test_ten_thousand_programs_compute_the_graphs_value():
    rng, config = random.Random(0), WordMathConfig(reuse=0.5)
    for i in range(10_000):
        problem = draw(config, rng, config.steps)
        level = LEVELS[i % 3]
        values = {}
        for step in problem.steps:  # the graph's own value, apart from the steps' record
            a, b = (values.get(x, x) for x in (step.left, step.right))
            values[step.name] = calculate(step.sign, a, b) if step.sign else a
        done, whole = run(problem.completion(level, "python"))
        assert whole and done[-1].name == "answer"
        assert done[-1].value == values[problem.at(level)[-1].name] == problem.at(level)[-1].value
        assert all(1 <= a.value <= config.limit for a in done)


def test_levels_are_nested_and_every_step_needs_the_one_before(world):
    for problem in world.asked:
        for lower, level in zip(LEVELS, LEVELS[1:], strict=False):
            assert problem.at(level)[:-1] == problem.at(lower)
            clauses, fewer = (problem.prompt(x, "prose").split(" . ")[:-1] for x in (level, lower))
            assert [c for c in clauses if c in fewer] == fewer and len(clauses) == len(fewer) + 1
            for rendering in RENDERINGS:
                answer = 5 if rendering == "prose" else 3  # words of its last sentence
                shared = problem.completion(lower, rendering).split()[:-answer]
                assert problem.completion(level, rendering).split()[: len(shared)] == shared
        names = [step.name for step in problem.steps]
        assert [step.left for step in problem.steps[1:]] == names[:-1]
        used = {x for step in problem.steps + problem.distractors for x in (step.left, step.right)}
        assert not used & {step.name for step in problem.distractors}


def test_clauses_stand_in_the_order_of_the_derivation_unless_shuffled():
    def ordered(problem):
        known = set()
        for i in problem.order:
            name, _, left, right, _ = (problem.steps + problem.distractors)[i]
            if {x for x in (left, right) if isinstance(x, str)} - known:
                return False
            known.add(name)
        return True

    rng = random.Random(1)
    config = WordMathConfig(distractors=2)
    assert all(ordered(draw(config, rng, 2)) for _ in range(200))
    problems = [draw(config, rng, 2) for _ in range(200)]
    first = {problem.order.index(len(problem.steps)) for problem in problems}
    assert first == set(range(2, 7))  # a distractor may stand anywhere after the first calculation
    shuffled = dataclasses.replace(config, shuffled=1.0)
    assert sum(ordered(draw(shuffled, rng, 2)) for _ in range(200)) < 50


def test_same_seed_same_problems_and_seeds_differ(world):
    again, other = WordMath(SMALL, 3), WordMath(SMALL, 4)
    assert again.base_texts() == world.base_texts() and again.asked == world.asked
    assert other.asked != world.asked and other.words() == world.words()
    prose = WordMath(dataclasses.replace(SMALL, renderings=("prose",)), 3)
    assert prose.asked == world.asked and prose.read_by == world.read_by
    assert prose.words() == world.words() and set(prose.shares()) == {"facts", "prose"}
    assert not prose.base_texts()["python"]
    assert {question.rendering for question in prose.questions("base", "P1")} == {"prose"}


def test_every_text_fits_the_vocabulary_and_the_decoder(world):
    words = set(world.words())
    texts = [text for kind in world.base_texts().values() for text in kind]
    texts += [text for solved in world.in_context("python") for text in solved]
    for rendering in RENDERINGS:
        for level in (*LEVELS, "joint"):
            texts += world.expert_texts(level, rendering)
        for level in LEVELS:
            questions = world.questions(rendering, level)
            assert len(questions) == SMALL.questions
            assert all(len(q.completion.split()) < world.longest for q in questions)
            texts += [question.text for question in questions]
    for text in map(str, texts):
        assert set(text.split()) <= words and text == " ".join(text.split())


def test_splits_share_no_derivation_under_any_names(world):
    asked = {p.graph("base") for p in world.asked}
    base = {p.graph("base") for p in world.read_by_base}
    experts = {p.graph("base") for problems in world.read_by.values() for p in problems}
    assert asked and base and experts and not (asked & base or asked & experts or base & experts)
    read = [*world.read_by_base, *(p for problems in world.read_by.values() for p in problems)]
    assert not asked.intersection(beginning for p in read for beginning in p.beginnings())
    derivations = [problem.at("base") for problem in (*world.asked, *read)]
    assert len(derivations) == len(set(derivations))


def renamed(problem):
    """The same graph under other names, as a leak would be."""
    names = {s.name: f"{s.name}x" for s in problem.steps}
    steps = tuple(
        Step(names[s.name], s.sign, names.get(s.left, s.left), names.get(s.right, s.right), s.value)
        for s in problem.steps
    )
    return dataclasses.replace(problem, steps=steps)


@pytest.mark.parametrize(
    "plant, message",
    [
        (
            lambda w: w.read_by_base.append(renamed(w.asked[0])),
            "the base reads the derivation of a test problem",
        ),
        (
            lambda w: w.read_by["P1"].append(w.asked[3]),
            "the P1 expert reads the derivation of a test problem",
        ),
        (
            lambda w: w.read_by["P2"].append(renamed(w.read_by_base[0])),
            "the P2 expert reads a derivation of the base",
        ),
        (lambda w: w.read_by_base.append(w.read_by_base[0]), "the base reads a problem twice"),
        (
            lambda w: w.read_by["P1"].append(w.read_by["base"][0]),
            "the P1 expert reads a problem twice, or another's",
        ),
    ],
)
def test_planted_leaks_are_found(plant, message):
    world = WordMath(SMALL, 0)
    plant(world)
    with pytest.raises(Leak, match=message):
        world.check_leaks()


# Completions of the docstring's example at level P1, with the outcome and the step of the first
# error of each. Most are the right completion with a change.
P1 = {rendering: EXAMPLE.completion("P1", rendering) for rendering in RENDERINGS}
PROSE, MARKDOWN, PYTHON = (P1[rendering] for rendering in RENDERINGS)
BEGUN = "- step 1 : apples = 5 - step 2 : pears ="
ANOTHER_SUM = PROSE.replace("which is 11 . the answer is 11", "which is 12 . the answer is 12")
ANOTHER_SIGN = PROSE.replace(
    "pears times 2 so 8 times 2 which is 16", "pears plus 2 so 8 plus 2 which is 10"
)
EITHER_ORDER = PROSE.replace("apples plus 3 so 5 plus 3", "3 plus apples so 3 plus 5")
TRACE = "right answer, wrong trace"
SCORED = [
    ("prose", PROSE, "right", 0),
    ("prose", EITHER_ORDER, "right", 0),
    ("prose", PROSE.replace("so 5 plus 3", "so 3 plus 5"), TRACE, 2),
    ("prose", PROSE.replace("so 5 plus 3", "so 5 times 3"), TRACE, 2),
    ("prose", PROSE.replace("so 16 minus 5", "so 8 minus 5"), TRACE, 4),
    ("prose", PROSE.replace("figs minus apples", "apples minus figs"), TRACE, 4),
    ("prose", PROSE.replace("figs minus apples", "16 minus 5"), TRACE, 4),
    ("prose", PROSE.replace("pears are", "nuts are"), TRACE, 2),
    ("prose", PROSE.replace("apples are 5", "jars are 7"), TRACE, 1),
    ("prose", ANOTHER_SUM, "wrong arithmetic", 4),
    ("prose", ANOTHER_SIGN[:-4] + "9 .", "wrong operation", 3),
    ("prose", PROSE[:-4] + "8 .", "wrong quantity", 5),
    ("prose", EXAMPLE.completion("base", "prose"), "stopped early", 4),
    ("prose", EXAMPLE.completion("P2", "prose"), "went on", 5),
    ("prose", PROSE + " the answer is 11 .", TRACE, 5),
    ("prose", PROSE + " nuts are 3 .", "went on", 5),
    ("prose", PROSE.partition(" the answer")[0], TRACE, 5),
    ("prose", "apples are 5 .", "stopped early", 2),
    ("prose", "apples are 5 . pears are", "malformed", 2),
    ("prose", "apples are . 5", "malformed", 1),
    ("prose", "apples are 5 . pears are apples .", "malformed", 2),
    ("prose", "", "stopped early", 1),
    ("markdown", MARKDOWN, "right", 0),
    ("markdown", MARKDOWN.replace("pears * 2 = 8 * 2", "2 * pears = 2 * 8"), "right", 0),
    ("markdown", MARKDOWN.replace("= 8 * 2", "= 9 * 2"), TRACE, 3),
    ("markdown", MARKDOWN.replace("step 3", "step 4"), TRACE, 3),
    ("markdown", f"{BEGUN} apples + 7 = 5 + 7 = 12 - answer : 12", "wrong quantity", 2),
    ("markdown", f"{BEGUN} apples - 3 = 5 - 3 = 2 - answer : 2", "wrong operation", 2),
    ("markdown", f"{BEGUN} apples + 3 = 5 + 3 = 9 - answer : 9", "wrong arithmetic", 2),
    ("markdown", EXAMPLE.completion("base", "markdown"), "stopped early", 4),
    ("markdown", EXAMPLE.completion("P2", "markdown"), "went on", 5),
    ("markdown", "- step 1 : apples = 5 - step 2 : pears - answer : 9", "malformed", 2),
    ("markdown", MARKDOWN.removeprefix("- "), TRACE, 1),
    ("python", PYTHON, "right", 0),
    ("python", PYTHON.replace("apples + 3", "3 + apples"), "right", 0),
    ("python", PYTHON.replace("apples + 3", "apples + 3 + 0"), TRACE, 2),
    ("python", PYTHON.replace("answer = cakes", "answer = 11"), TRACE, 5),
    ("python", PYTHON.replace("apples = 5", "apples = 6"), "wrong quantity", 1),
    ("python", PYTHON.replace("pears * 2", "cups * 2"), "wrong quantity", 3),
    ("python", PYTHON.replace("figs - apples", "figs + apples"), "wrong operation", 4),
    ("python", PYTHON.replace("answer = cakes", "answer = figs"), "wrong quantity", 5),
    ("python", EXAMPLE.completion("base", "python"), "stopped early", 4),
    ("python", EXAMPLE.completion("P2", "python"), "went on", 5),
    ("python", PYTHON.partition(" ; answer")[0], TRACE, 5),
    ("python", PYTHON.replace("figs = pears * 2", "figs = pears * 2 )"), "malformed", 3),
    ("python", PYTHON + " ; print ( answer )", "went on", 5),
]


@pytest.mark.parametrize("rendering, said, outcome, step", SCORED)
def test_scores_of_traces_written_by_hand(world, rendering, said, outcome, step):
    question = ask("P1", rendering)
    assert world.score(question, said) == outcome
    notes = world.notes(question, said)
    assert [k for k in range(1, 6) if notes[f"first error at step {k}"]] == ([step] if step else [])
    assert notes["last number right"] == (outcome in OUTCOMES[:2])
    assert notes["stopped as base"] == (said == EXAMPLE.completion("base", rendering))


def test_every_outcome_occurs_in_every_rendering():
    for rendering in RENDERINGS:
        missing = set(OUTCOMES) - {outcome for r, _, outcome, _ in SCORED if r == rendering}
        # The interpreter calculates for a program, so the arithmetic of a program is never wrong.
        assert missing == ({"wrong arithmetic"} if rendering == "python" else set())


def test_right_answers_are_right_and_lower_levels_stop_early(world):
    for group in RENDERINGS:
        for i, form in enumerate(LEVELS):
            questions = world.questions(group, form)
            for q in questions:
                assert world.score(q, q.completion) == "right"
                assert str(last_number(group, q.completion)) == q.answer
                notes, below = world.notes(q, q.completion), LEVELS[max(0, i - 1)]
                longest = max(len(problem.at(below)) for problem in world.asked)
                longer = len(q.problem.at(form)) > longest
                assert notes["longer and right"] == notes["longer than any below"] == longer
            assert {world.notes(q, "none")["longer and right"] for q in questions} == {False}
            for q in questions:
                for level in LEVELS[:i]:
                    said = q.problem.completion(level, group)
                    assert world.score(q, said) in ("stopped early", "right answer, wrong trace")
                    assert world.notes(q, said)[f"stopped as {level}"]


@pytest.mark.parametrize(
    "text, number",
    [("so 1,234 .", 1234), ("1,234 and 5,6 .", 6), ("none", None), ("٣ 7 ٣", 7), ("x 8 , .", 8)],
)
def test_last_numbers(text, number):
    assert last_number("prose", text) == number


HOSTILE = [
    "import os",
    "__import__ ( 'os' )",
    "apples = __import__ ( 'os' ) . system ( 'true' )",
    "apples = 9 ** 9 ** 9",
    "apples = 2 ** 10 ** 8",
    "apples = ( lambda : 5 ) ( )",
    "apples = ( pears := 5 )",
    "apples = x . __class__",
    "apples = [ i for i in [ 5 ] ]",
    "apples = 'a' * 999999999",
    "apples = 5 . 0",
    "apples = 1e9",
    "apples = True",
    "apples = 1 << 9999",
    "apples = 1 >> 1",
    "apples , pears = 5",
    "apples = pears = 5",
    "apples += 5",
    "apples [ 0 ] = 5",
    "apples : int = 5",
    "del apples",
    "apples = 'unterminated",
    'apples = """',
    "apples = 5 \x00",
    "apples = ٥",
    "äpfel = 5",
    "apples = ５",
    "apples = 0x1for x in x",
    "while 1 : pass",
    "apples = f'{ 5 }'",
    "apples = 5 if 1 else 2",
    "exec ( 'apples = 5' )",
    "apples = " + "( " * 100_000 + "5",
    "apples = " + "(" * 900 + "5" + ")" * 900,
    "apples = " + "-" * 1_900 + "5",
    "apples = " + "~" * 500 + "5",
    "apples = " + "1" * 2_000,
    "apples = 5 ;" * 100_000,
    "a" * 1_000_000,
    "apples = " + "1 + " * 400 + "1",
    "apples = 5 \\",
    "apples = \ud800",
    "@ apples",
    "apples = 5 #",
    "\ufeffapples = 5",
]


@pytest.mark.parametrize("program", HOSTILE)
def test_hostile_programs_compute_nothing(world, program):
    done, whole = run(program)
    assert all(a.value is None or abs(a.value) <= MAX_NUMBER for a in done)
    assert len(done) <= arithmetic.MAX_STATEMENTS
    if not program.startswith("apples = 5"):
        assert not any(a.value for a in done) and not (whole and done)
    for rendering in RENDERINGS:
        assert world.score(ask("P2", rendering), program) in ("malformed", "stopped early")


def test_what_a_program_may_not_do_is_refused_before_it_is_done(monkeypatch):
    parsed = []

    def parse(text):
        parsed.append(len(text))
        return compile("", "", "exec", ast.PyCF_ONLY_AST)

    monkeypatch.setattr(arithmetic.ast, "parse", parse)
    run("apples = " + "( " * 100_000)
    run("5" * 1_000_000)
    assert parsed == []
    run(" ; ".join(["apples = 5"] * 100))
    assert len(parsed) == 1  # no statement after a refused one is parsed
    run("apples = " + "[" * 21 + "]" * 21)
    assert len(parsed) == 1


def test_work_is_bounded_by_statements_and_by_the_size_of_numbers():
    done, whole = run(" ; ".join(["a = 5", *["a = a * a"] * 150]))
    assert not whole and [a.value for a in done] == [5, 25, 625, 390625, 152587890625, None]
    done, whole = run(" ; ".join(["apples = 5"] * 65))
    assert not whole and len(done) == 64


@pytest.mark.parametrize(
    "program, values",
    [
        ("a = 7 ; b = a // 2 ; c = a % 4 ; answer = ( b + c ) * - 2", [7, 3, 3, -12]),
        ("a = 12 & 10 ; b = 12 | 10 ; c = 12 ^ 10 ; d = - 1 & 15", [8, 14, 6, 15]),
        ("a = 1\nb = a - 3", [1, -2]),
        ("", []),
        ("a = 5 ;\n\n  \nb = 6 ; \n", [5, 6]),
        ("a = b", [None]),
        ("a = 1 // 0", [None]),
        ("a = 1 % 0", [None]),
    ],
)
def test_small_programs(program, values):
    done, whole = run(program)
    assert [a.value for a in done] == values and whole == (None not in values)


@pytest.mark.parametrize(
    "program, values",
    [
        ("a = 5 # ; b = 6", []),
        ("c = 4\na = 5 # ; b = 6", [4]),
        ("a = 5 ; ; b = 6", [5]),
        ("a = 5 ; ;", [5]),
        ("; a = 5", []),
        (" ; ; ", []),
        ("  a = 5", []),
        ("a = 5\n  b = 6", [5]),
        ("a = 5 ;\n\tb = 6", [5]),
    ],
)
def test_what_pythons_parser_refuses_ends_the_run(program, values):
    done, whole = run(program)
    assert [a.value for a in done] == values and not whole
    if "#" not in program:
        with pytest.raises(SyntaxError):
            ast.parse(program)


PIECES = st.sampled_from(["a", "b", " ", "=", "5", "+", ";", "\n", "\t", "(", ")", "#", "-"])


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=14).map("".join) | st.lists(PIECES, max_size=14).map(" ".join))
def test_a_program_that_runs_as_a_whole_has_the_statements_that_python_reads(program):
    done, whole = run(program)
    if whole:
        assert len(done) == len(ast.parse(program).body)


WORDS = st.sampled_from("apples = 5 + ; ( ) answer - step : . are is 1 x".split())


@settings(deadline=None)  # no test depends on time
@given(st.text(max_size=60) | st.lists(WORDS).map(" ".join))
def test_any_text_has_a_score(text):
    task = WordMath.__new__(WordMath)  # scoring needs no drawn problems
    task.config = WordMathConfig()
    for rendering in RENDERINGS:
        for level in LEVELS:
            question = ask(level, rendering)
            true = [name for name, holds in task.notes(question, text).items() if holds]
            errors = [name for name in true if name.startswith("first error")]
            assert (task.score(question, text) == "right") == (not errors) and len(errors) <= 1


def test_experts_read_their_level_only(world):
    for more, level in enumerate(LEVELS):
        lengths = set(range(SMALL.fewest + more, SMALL.steps + more + 1))
        texts = world.expert_texts(level, "prose")
        assert {text.completion.count("which is") for text in texts} == lengths
    both = [text for level in ("base", "P1") for text in world.expert_texts(level, "prose")]
    assert world.expert_texts("joint", "prose") == both
    message = "no expert reads 'P3' in 'prose': choose base, P1, P2 or joint"
    with pytest.raises(ValueError, match=message):
        world.expert_texts("P3", "prose")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"limit": 7}, "task.limit = 7"),
        ({"fewest": 0}, "task.fewest = 0"),
        ({"fewest": 3}, "task.fewest = 3"),
        ({"reuse": 1.5}, "task.reuse = 1.5"),
        ({"shuffled": -1.0}, "task.shuffled = -1.0"),
        ({"distractors": -1}, "task.distractors = -1"),
        ({"steps": 8, "distractors": 2}, "need 13 quantities"),
        ({"questions": 0}, "task.questions = 0"),
        ({"renderings": ("prose", "latex")}, "one or more of prose, markdown"),
        ({"renderings": ("prose", "prose")}, "each once"),
        ({"renderings": ()}, "task.renderings = ()"),
        ({"shares": ReadingShares(prose=0, markdown=0, python=0)}, "task.shares gives nothing"),
    ],
)
def test_impossible_configurations_are_explained(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WordMathConfig(**values)


def test_impossible_shares_and_too_small_a_world_are_explained(monkeypatch):
    with pytest.raises(ValueError, match="task.shares.prose = -0.1"):
        ReadingShares(prose=-0.1)
    monkeypatch.setattr(word_problem, "QUANTITIES", word_problem.QUANTITIES[:5])
    message = "different problems found of the 300 for test: raise task.limit = 8"
    with pytest.raises(ValueError, match=message):
        WordMath(WordMathConfig(limit=8, steps=1, questions=300), 0)
