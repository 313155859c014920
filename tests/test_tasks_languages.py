"""Small languages: programs written, read, run and scored; splits; hostile text."""

import math
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import language_syntax, languages
from tasks.language_syntax import HELPERS, LANGUAGES, Program, Statement, result
from tasks.languages import (
    ARMS,
    AT_ITS_END,
    FORMS,
    FURTHER,
    KNOWN,
    LARGEST,
    NEW,
    OLD,
    OUTCOMES,
    VALUES,
    Languages,
    LanguagesConfig,
    ReadingShares,
    written,
)
from tasks.world import Leak

SMALL = LanguagesConfig(lists=60, expert_lists=52, questions=26)


@pytest.fixture(scope="module")
def world():
    return Languages(SMALL, seed=3)


def test_the_docstrings_examples():
    rows = re.findall(r"^    (ada|bob|cyd|dan|eve) +(.*)$", language_syntax.__doc__, re.M)
    assert [name for name, _ in rows] == list(LANGUAGES)
    for name, text in rows:
        assert LANGUAGES[name].write(written("rest", "abc")) == text
    rows = re.findall(r"^    (sum|drop|press|rest) +(.*)$", languages.__doc__, re.M)
    assert len(rows) == 4
    for name, text in rows:
        assert LANGUAGES["ada"].write(written(name, "abc")) == text
    for arm, adds in ARMS.items():
        (shown,) = re.findall(rf"^    {arm} +(t = .*?)  ", languages.__doc__, re.M)
        assert LANGUAGES["ada"].write(written(NEW, "ab", adds)).split(" ; ")[0] == shown


def brute_force(does, at_end, numbers):
    """What an algorithm gives, by the meaning of its two parts alone."""
    first, last = numbers[0], numbers[-1]
    if does == "-":
        combined = 2 * first - sum(numbers)
    else:
        combined = math.prod(numbers) if does == "*" else sum(numbers)
    return {
        None: combined,
        ("-", 0): combined - first,
        ("-", -1): combined - last,
        ("+", 0): combined + first,
        ("+", -1): combined + last,
        ("*", 0): combined * first,
        ("*", -1): combined * last,
    }[at_end]


def test_ten_thousand_programs_against_brute_force():
    rng = random.Random(0)
    names = [*OLD, NEW]
    for i in range(10_000):
        values = rng.sample(VALUES, rng.randint(2, 4))
        numbers = {name: rng.randint(2, 99) for name in values}
        algorithm, adds = names[i % len(names)], rng.choice(list(ARMS.values()))
        language = LANGUAGES[rng.choice(list(LANGUAGES))]
        program = written(algorithm, values, adds)
        assert language.read(language.write(program)) == program
        meaning = OLD.get(algorithm, (adds, AT_ITS_END))
        assert result(program, numbers) == brute_force(*meaning, list(numbers.values()))


def test_the_longest_program_has_a_value():
    values = VALUES[:6]
    LanguagesConfig(longest=len(values))
    assert result(written("trim", values), dict.fromkeys(values, LARGEST)) == LARGEST**7


def test_no_other_name_is_the_new_algorithm_and_its_parts_are_known():
    read = {(does, at_end) for does, at_end in OLD.values()}
    assert len(read) == len(OLD)
    assert {does for does, _ in read} == {"total", "+", "-", "*"}
    assert {does for does, at_end in read if at_end == AT_ITS_END} == {"-", "*"}


def test_languages_share_no_sign_and_no_mark():
    for part in ("mark", "calculation", "call", "end"):
        assert len({getattr(each, part) for each in LANGUAGES.values()}) == len(LANGUAGES)
    words = [word for each in LANGUAGES.values() for word in each.signs.values()]
    assert len(set(words)) == len(words)
    forms = [LANGUAGES[each].calculation for each in KNOWN]
    assert len({tuple(re.findall(r"{(\w+)}", form)) for form in forms}) == len(forms)


@pytest.mark.parametrize("seed", range(4))
def test_each_algorithm_is_held_out_in_one_language(seed):
    world = Languages(SMALL, seed)
    assert [algorithm for algorithm, _ in world.crossed] == list(OLD)
    held = Counter(language for _, language in world.crossed)
    assert set(held) == set(KNOWN) and max(held.values()) - min(held.values()) == 1
    assert not {*world.crossed} & {*world.known}
    assert len(world.crossed) + len(world.known) == len(OLD) * len(KNOWN)
    for language in KNOWN:  # every part of an algorithm is read in every language
        held = [OLD[algorithm] for algorithm, own in world.crossed if own == language]
        assert max(Counter(at_end for _, at_end in held).values()) == 1
        assert max(Counter(does for does, _ in held).values()) == 2
    assert Languages(SMALL, seed + 1).crossed != world.crossed


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
    def pairs(texts):
        return {(text.prompt.split()[1], text.prompt.split()[-2]) for text in texts}

    known, crossed = set(world.known), set(world.crossed)
    further, new = {(a, FURTHER) for a in OLD}, {(NEW, language) for language in KNOWN}
    assert pairs(world.base_texts()["programs"]) == known
    assert pairs(world.expert_texts("L", "shared")) == further
    assert pairs(world.expert_texts("helper", "shared")) == {("sum", FURTHER)}
    assert pairs(world.expert_texts("A", "inlined")) == new
    assert pairs(world.expert_texts("joint", "renamed")) == further | new
    assert pairs(world.expert_texts("target", "shared")) == {(NEW, FURTHER)}
    for group in ARMS:
        assert pairs(world.questions(group, "both")) == {(NEW, FURTHER)}
        assert pairs(world.questions(group, "algorithm")) == new
        assert pairs(world.questions(group, "language")) == further
        assert pairs(world.questions(group, "crossed")) == crossed
        assert pairs(world.questions(group, "known")) <= known
    assert pairs(world.questions("base", "crossed")) == crossed
    for form in ("known", "language", "algorithm", "both"):
        assert pairs(world.questions("base", form)) <= known
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


def test_planted_leaks_are_found(monkeypatch):
    leaking = Languages(SMALL, 0)
    leaking.read_by_experts.append(leaking.asked[0])
    with pytest.raises(Leak, match="experts reads .*, a list of the test"):
        leaking.check_leaks()
    leaking = Languages(SMALL, 0)
    leaking.known.append(leaking.crossed[2])
    with pytest.raises(Leak, match="base reads pack in dan, a held-out pair"):
        leaking.check_leaks()
    leaking = Languages(SMALL, 0)
    monkeypatch.setattr(languages, "OLD", {**OLD, NEW: ("total", AT_ITS_END)})
    with pytest.raises(Leak, match="L reads rest in eve, a held-out pair"):
        leaking.check_leaks()


def question(world, values="abc", group="shared"):
    return world._question(group, "both", 0, tuple(values))


EVE = "t is total from a and b , t is total from t and c , r is t minus a , show r ,"
REST = written(NEW, "abc")


@pytest.mark.parametrize(
    "said, outcome, elsewhere",
    [
        (EVE, "right", False),
        (EVE.replace("total", "gather"), "right", False),
        (EVE.replace("total from t and c", "t more c"), "right", False),
        ("t is b more c , show t ,", "right", False),
        (EVE.replace("minus", "more"), "wrong result", False),
        (EVE.replace("t and c", "t and b"), "wrong result", False),
        (EVE.replace("t and c", "t and d"), "does not run", False),
        (EVE.replace(", show r ,", ","), "does not run", False),
        (EVE[:-2], "does not run", False),
        (EVE + " show r ,", "does not run", False),
        (EVE.replace("c , r", "c , , r"), "does not run", False),
        *((LANGUAGES[other].write(REST), "another language", True) for other in KNOWN),
        (LANGUAGES["ada"].write(written("sum", "abc")), "another language", False),
        ("", "does not run", False),
        ("show show ,", "does not run", False),
    ],
)
def test_programs_written_by_hand_are_scored_by_running_them(world, said, outcome, elsewhere):
    q = question(world)
    assert world.score(q, said) == outcome
    notes = world.notes(q, said)
    assert notes["text as read"] == (said == EVE)
    assert notes["right algorithm in another language"] == elsewhere


@pytest.mark.parametrize(
    "said",
    [
        "__import__ ( 'os' )",
        "t is a ** b , show t ,",
        "t = a ; give t ; import os",
        "let t be add a b . give back t . give back t .",
        "let t be add a b give back t",
        "do total with a b gives t / the end is t /",
        "t is total from a and b , " * 500 + "show t ,",
        "t is t times t , " * 30 + "show t ,",
        "a" * 1_000_000,
        "\u0663 is a more b , show t ,",
        "t is A more b , show t ,",
        "t is a more b\n, show t ,",
        "t is a more b , show t , #",
        "t is os from a and b , show t ,",
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
    "a b t r = + ; . | ! : > plus by total let be call add give back ( , ) / do with gives the end "
    "is cut from and show more".split()
)


SCORING = Languages(SMALL, seed=5)


@settings(deadline=None)  # no test depends on time
@given(st.text(max_size=60) | st.lists(WORDS, max_size=30).map(" ".join))
def test_any_text_has_an_outcome_and_what_is_read_is_written_the_same(text):
    for group in ARMS:
        assert SCORING.score(question(SCORING, group=group), text) in OUTCOMES
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
