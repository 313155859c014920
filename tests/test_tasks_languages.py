"""Small languages: programs written, read, run and scored; splits; hostile text."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import language_syntax, languages
from tasks.language_syntax import HELPERS, LANGUAGES, Program, Statement, result
from tasks.languages import (
    ARMS,
    FORMS,
    KNOWN,
    NEW,
    OLD,
    OUTCOMES,
    THIRD,
    VALUES,
    Languages,
    LanguagesConfig,
    ReadingShares,
    written,
)
from tasks.world import Leak

SMALL = LanguagesConfig(lists=60, expert_lists=30, questions=12)


@pytest.fixture(scope="module")
def world():
    return Languages(SMALL, seed=3)


def test_the_docstrings_examples():
    rows = re.findall(r"^    (ada|bob|cyd) +(.*)$", language_syntax.__doc__, re.M)
    assert [name for name, _ in rows] == list(LANGUAGES)
    for name, text in rows:
        assert LANGUAGES[name].write(written("rest", "abc")) == text
    rows = re.findall(r"^    (sum|fall|pile|rest) +(.*)$", languages.__doc__, re.M)
    assert [name for name, _ in rows] == [*OLD, NEW]
    for name, text in rows:
        assert LANGUAGES["ada"].write(written(name, "abc")) == text
    for arm, adds in ARMS.items():
        (shown,) = re.findall(rf"^    {arm} +(t = .*?)  ", languages.__doc__, re.M)
        assert LANGUAGES["ada"].write(written(NEW, "ab", adds)).split(" ; ")[0] == shown


def brute_force(algorithm, numbers):
    """What an algorithm gives, by its meaning alone."""
    first = numbers[0]
    if algorithm == "sum":
        return sum(numbers)
    if algorithm == "fall":
        return 2 * first - sum(numbers)
    return sum(numbers) * first if algorithm == "pile" else sum(numbers) - first


def test_ten_thousand_programs_against_brute_force():
    rng = random.Random(0)
    for i in range(10_000):
        values = rng.sample(VALUES, rng.randint(2, 4))
        numbers = {name: rng.randint(2, 99) for name in values}
        algorithm = (*OLD, NEW)[i % 4]
        adds = list(ARMS.values())[i // 4 % 3]
        language = LANGUAGES[list(LANGUAGES)[i // 12 % 3]]
        program = written(algorithm, values, adds)
        assert language.read(language.write(program)) == program
        assert result(program, numbers) == brute_force(algorithm, list(numbers.values()))


def test_arms_have_as_many_statements():
    for n in (2, 3, 4):
        lengths = {len(written(NEW, VALUES[:n], adds).statements) for adds in ARMS.values()}
        assert lengths == {n}


def test_right_answers_are_right_and_fit(world):
    words = set(world.words())
    for group in (*ARMS, "base"):
        for form in FORMS:
            questions = world.questions(group, form)
            assert len(questions) == SMALL.questions
            for q in questions:
                assert world.score(q, q.completion) == "right"
                notes = world.notes(q, q.completion)
                assert notes["text as read"] and set(notes) == set(world.note_names)
                assert not notes["right algorithm in another language"]
                assert set(str(q.text).split()) <= words
                assert len(q.completion.split()) < world.longest
        for form in FORMS:
            assert [q.values for q in world.questions(group, form)] == world.asked
    for group in ARMS:
        for reads in ("L", "A", "helper", "joint", "target"):
            texts = world.expert_texts(reads, group)
            assert texts and all(set(str(text).split()) <= words for text in texts)
    assert all(set(str(t).split()) <= words for own in world.base_texts().values() for t in own)


def test_who_reads_what(world):
    def ends(texts):
        return {(text.prompt.split()[1], text.prompt.split()[-2]) for text in texts}

    old = {(a, language) for a in OLD for language in KNOWN}
    assert ends(world.base_texts()["programs"]) == old
    assert ends(world.expert_texts("L", "shared")) == {(a, THIRD) for a in OLD}
    assert ends(world.expert_texts("helper", "shared")) == {("sum", THIRD)}
    assert ends(world.expert_texts("A", "inlined")) == {(NEW, language) for language in KNOWN}
    assert ends(world.expert_texts("target", "shared")) == {(NEW, THIRD)}
    assert ends(world.questions("shared", "both")) == {(NEW, THIRD)}
    assert ends(world.questions("shared", "language")) == {(a, THIRD) for a in OLD}
    assert ends(world.questions("base", "both")) <= old
    assert world.expert_texts("L", "shared") == world.expert_texts("L", "renamed")
    own = {arm: {str(t) for t in world.expert_texts("A", arm)} for arm in ARMS}
    assert not own["shared"] & own["inlined"] and not own["shared"] & own["renamed"]
    read = {text.prompt.split(" of ")[1] for text in world.expert_texts("joint", "shared")}
    assert not read & {q.prompt.split(" of ")[1] for q in world.questions("shared", "both")}
    with pytest.raises(ValueError, match="no expert reads 'B' in 'shared'"):
        world.expert_texts("B", "shared")


def test_examples_are_about_lists_that_nobody_is_asked(world):
    split = world.examples("shared", 20)
    drawn = {q.values for q in split.examples}
    assert len(drawn) == 20 and not drawn & set(world.asked)
    assert not drawn & {*world.read_by_base, *world.read_by_experts}
    assert len(split.asked) == SMALL.questions


def test_planted_leaks_are_found(world, monkeypatch):
    leaking = Languages(SMALL, 0)
    leaking.read_by_experts.append(leaking.asked[0])
    with pytest.raises(Leak, match="experts reads .*, a list of the test"):
        leaking.check_leaks()
    monkeypatch.setattr(languages, "OLD", (*OLD, NEW))
    with pytest.raises(Leak, match="L reads the fourth algorithm in the third language"):
        world.check_leaks()


def question(world, values="abc", group="shared"):
    return world._question(group, "both", 0, tuple(values))


CYD = "a b : total > t | t c : total > t | t a less > r | r !"


@pytest.mark.parametrize(
    "said, outcome, elsewhere",
    [
        (CYD, "right", False),
        (CYD.replace(": total", ": gather"), "right", False),
        (CYD.replace(": total", "plus"), "right", False),
        ("b c plus > t | t !", "right", False),
        (CYD.replace("less", "plus"), "wrong result", False),
        (CYD.replace("t c :", "t b :"), "wrong result", False),
        (CYD.replace("t c :", "t d :"), "does not run", False),
        (CYD.replace(" | r !", ""), "does not run", False),
        (CYD + " | r !", "does not run", False),
        (CYD.replace("> t | t c", "> t | | t c"), "does not run", False),
        (LANGUAGES["ada"].write(written("rest", "abc")), "another language", True),
        (LANGUAGES["bob"].write(written("rest", "abc")), "another language", True),
        (LANGUAGES["ada"].write(written("sum", "abc")), "another language", False),
        ("", "does not run", False),
        ("! ! !", "does not run", False),
    ],
)
def test_programs_written_by_hand_are_scored_by_running_them(world, said, outcome, elsewhere):
    q = question(world)
    assert world.score(q, said) == outcome
    notes = world.notes(q, said)
    assert notes["text as read"] == (said == CYD)
    assert notes["right algorithm in another language"] == elsewhere


@pytest.mark.parametrize(
    "said",
    [
        "__import__ ( 'os' )",
        "a b ** > t | t !",
        "t = a ; give t ; import os",
        "let t be add a b . give back t . give back t .",
        "let t be add a b give back t",
        "a b : total > t | " * 500 + "t !",
        "t t by > t | " * 30 + "t !",
        "a" * 1_000_000,
        "a b plus > \u0663 | t !",
        "A b plus > t | t !",
        "a b plus > t\n| t !",
        "a b plus > t | t ! #",
        "\x00",
        "( " * 50_000,
    ],
)
def test_hostile_programs_do_not_run(world, said):
    assert world.score(question(world), said) == "does not run"
    assert not any(world.notes(question(world), said).values())


def test_numbers_that_grow_have_no_value():
    growing = Program(
        (*[Statement("t", "*", "a", "a")], *[Statement("t", "*", "t", "t")] * 10), "t"
    )
    assert result(growing, {"a": 99}) is None


WORDS = st.sampled_from(
    "a b t r = + ; . | ! : > plus less by total let be call add give back ( , )".split()
)


@settings(deadline=None)  # no test depends on time
@given(st.text(max_size=60) | st.lists(WORDS, max_size=30).map(" ".join))
def test_any_text_has_an_outcome_and_what_is_read_is_written_the_same(text):
    world = Languages.__new__(Languages)  # scoring needs no drawn lists
    world.seed = 0
    for group in ARMS:
        assert world.score(question(world, group=group), text) in OUTCOMES
    for language in LANGUAGES.values():
        if program := language.read(text):
            assert language.write(program).split() == text.split()
            assert all(each.does in (*HELPERS, "+", "-", "*") for each in program.statements)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"lists": 0}, "task.lists = 0"),
        ({"longest": 2}, "task.longest = 2"),
        ({"questions": 0}, "task.questions = 0"),
    ],
)
def test_impossible_configurations_are_explained(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LanguagesConfig(**values)
    with pytest.raises(ValueError, match="task.shares.words = -1"):
        ReadingShares(words=-1)


def test_too_small_a_world_is_explained():
    with pytest.raises(ValueError, match="lists found of the 9000 for test: raise task.longest"):
        Languages(LanguagesConfig(lists=60, expert_lists=30, questions=9000), 0)
