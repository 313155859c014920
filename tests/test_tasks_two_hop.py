"""The two-hop world: its texts and questions, its split, and its scorer on answers by hand."""

from dataclasses import replace

import pytest

from tasks import TwoHop, TwoHopConfig
from tasks.two_hop import FORMS, GROUPS, ReadingShares
from tasks.two_hop_words import Triple
from tasks.world import Leak

SMALL = TwoHopConfig(people=60, cities=12, triples=8, set_cities=4)


@pytest.fixture(scope="module")
def world():
    return TwoHop(SMALL, seed=3)


def test_the_docstrings_example():
    triple = Triple("ada hill", "max cole", "port haven")
    question = "where does the spouse of ada hill live ?"
    chain = "the spouse of ada hill is max cole . the home of max cole is port haven ."
    assert {form: str(triple.question(form).text) for form in FORMS} == {
        "hop1": "who is the spouse of ada hill ? answer : max cole .",
        "hop2": "where does max cole live ? answer : port haven .",
        "direct": f"{question} answer : port haven .",
        "cot": f"{question} think : {chain} answer : port haven .",
    }


def test_people_marry_in_pairs_and_cities_are_dealt_evenly(world):
    assert all(world.spouse[world.spouse[p]] == p != world.spouse[p] for p in world.people)
    assert world.chance("F") == world.chance("H") == world.chance("R") == 2 / 8
    assert {form: len(world.questions("F", form)) for form in FORMS} == dict.fromkeys(FORMS, 8)


def test_same_seed_same_world_and_seeds_differ(world):
    again, other = TwoHop(SMALL, 3), TwoHop(SMALL, 4)
    assert again.base_texts() == world.base_texts() and again.sets == world.sets
    assert other.sets != world.sets and other.words() == world.words()


@pytest.mark.parametrize("seed", range(12))
def test_worlds_are_free_of_leaks(seed):
    TwoHop(SMALL, seed)  # checks itself


def test_experts_read_one_hop_only(world):
    hop1, hop2 = (" ".join(map(str, world.expert_texts(role, "F"))) for role in ("hop1", "hop2"))
    for t in world.sets["F"]:
        assert t.a in hop1 and t.b in hop1 and t.c not in hop1
        assert t.b in hop2 and t.c in hop2 and t.a not in hop2
    both = [text for reads in ("hop1", "hop2") for text in world.expert_texts(reads, "F")]
    assert world.expert_texts("joint", "F") == both
    with pytest.raises(ValueError, match="no expert reads 'hop3': choose hop1, hop2"):
        world.expert_texts("hop3", "F")


def test_every_text_fits_the_vocabulary_and_the_decoder(world):
    words = set(world.words())
    for texts in world.base_texts().values():
        assert all(set(str(text).split()) <= words for text in texts)
    for s in "FHR":
        assert all(len(q.completion.split()) < world.longest for q in world.questions(s, "cot"))


def plant(name, change):
    """A world into which a leak is planted after it was built."""
    world = TwoHop(SMALL, 0)
    change(world)
    return pytest.param(world, name, id=name)


def read_held_out(world):
    world.exposed.append(world.held_out[0])


def read_new_fact(world):
    t = world.sets["R"][0]
    world.spouse[t.a], world.home[t.b] = t.b, t.c
    world.home[t.a] = t.c
    world.asked.append(t.a)


def read_new_name(world):
    world.job[world.sets["H"][0].a] = "baker"


def use_an_untrained_word(world):
    t = world.sets["F"][0]
    world.sets["F"][0] = Triple("xerxes hill", t.b, t.c)


def use_a_person_twice(world):
    other = world.sets["H"][0]
    world.sets["H"][0] = Triple(world.sets["F"][0].a, other.b, other.c)


def use_a_known_city_as_new(world):
    t = world.sets["F"][0]
    world.sets["F"][0] = Triple(t.a, t.b, world.cities[0])


@pytest.mark.parametrize(
    "world, message",
    [
        plant("reads the held-out question", read_held_out),
        plant("reads the new fact", read_new_fact),
        plant("of set H is known to the base", read_new_name),
        plant("never reads the word 'xerxes'", use_an_untrained_word),
        plant("stands twice among the fact sets", use_a_person_twice),
        plant("of set F is known to the base", use_a_known_city_as_new),
    ],
)
def test_planted_leaks_are_found(world, message):
    with pytest.raises(Leak, match=message):
        world.check_leaks()


def test_an_expert_that_reads_both_ends_is_found(world, monkeypatch):
    leaking = TwoHop(SMALL, 0)
    whole = leaking.expert_texts

    def too_much(reads, s):
        return [*whole(reads, s), leaking.sets[s][0].question("direct").text]

    monkeypatch.setattr(leaking, "expert_texts", too_much)
    with pytest.raises(Leak, match="the hop1 expert of set F reads both ends"):
        leaking.check_leaks()


def test_scores_of_answers_written_by_hand(world):
    t, other = world.sets["F"][0], world.sets["F"][1]
    assert t.c != other.c
    chain = f"the spouse of {t.a} is {t.b} . the home of {t.b} is {t.c} . answer :"
    scores = {
        "direct": {
            f"{t.c} .": "right",
            f"{t.c} . {other.c} .": "right",
            f"{t.b} .": "bridge",
            f"{other.c} .": "wrong city",
            f"{world.cities[0]} .": "wrong city",
            f"{other.b} .": "malformed",
            f"{t.c}": "malformed",
            f"{t.c} {t.c} .": "malformed",
            ". .": "malformed",
            "": "malformed",
        },
        "hop1": {f"{t.b} .": "right", f"{t.c} .": "malformed"},
        "cot": {
            f"{chain} {t.c} .": "right",
            f"{chain} {other.c} .": "wrong city",
            f"{chain} {t.b} .": "bridge",
            f"{chain} ": "malformed",
            f"{t.c} .": "malformed",
        },
    }
    for form, by_completion in scores.items():
        for completion, outcome in by_completion.items():
            assert world.score(t.question(form), completion) == outcome


def test_a_chain_names_its_bridge_in_the_first_sentence(world):
    t = world.sets["F"][0]
    for completion, named in (
        (f"the spouse of {t.a} is {t.b} . nonsense", True),
        (f"the spouse of {t.b} is {t.a} . the home of {t.b} is {t.c} .", False),
        ("", False),
    ):
        assert world.notes(t.question("cot"), completion) == {"bridge named": named}
    assert world.notes(t.question("direct"), f"{t.c} .") == {}


def test_known_facts_are_real_people_that_were_never_composed(world):
    read = {kind: set(texts) for kind, texts in world.base_texts().items()}
    assert world.sets["K"]
    for t in world.sets["K"]:
        assert world.spouse[t.a] == t.b and world.home[t.b] == t.c
        assert t.question("direct").text not in read["direct"]
        assert t.question("cot").text not in read["cot"]
        assert any(t.a in str(text) and t.b in str(text) for text in read["statement"])
    people = [name for t in world.sets["K"] for name in (t.a, t.b)]
    assert len(set(people)) == len(people)


def test_the_dose_changes_what_is_composed_and_nothing_else(world):
    for dose, count in ((0, 0), (0.5, 22), (1, 45)):
        other = TwoHop(replace(SMALL, dose=dose), 3)
        assert other.sets == world.sets and other.held_out == world.held_out
        assert other.words() == world.words()
        texts = other.base_texts()
        assert len(texts["direct"]) == len(texts["cot"]) == count
        assert texts["statement"] == world.base_texts()["statement"]
        assert ("cot" in other.shares()) == (dose > 0)


def test_identity_is_read_of_all_people_by_the_base_and_of_bridges_by_experts(world):
    other = TwoHop(replace(SMALL, shares=ReadingShares(identity=0.1)), 3)
    b = other.sets["F"][0].b
    text = f"who is {b} ? answer : {b} ."
    assert "identity" in other.shares() and "identity" not in world.shares()
    assert len(other.base_texts()["identity"]) == 60
    for reads in ("hop1", "hop2", "hop1-plain", "hop2-other"):
        assert text in map(str, other.expert_texts(reads, "F"))
        assert text not in map(str, world.expert_texts(reads, "F"))


def test_templates_are_shared_or_disjoint_or_absent(world):
    shared = list(map(str, world.expert_texts("hop2", "F")))
    disjoint = list(map(str, world.expert_texts("hop2-other", "F")))
    t = world.sets["F"][0]
    chain, other_chain = f"the home of {t.b} is {t.c} .", f"{t.b} lives in {t.c} . answer : {t.c} ."
    assert any("think :" in text and chain in text for text in shared)
    assert any("think :" in text and other_chain in text for text in disjoint)
    assert not any(f"the home of {t.b} is" in text for text in disjoint)
    for reads in ("hop1-plain", "hop2-plain", "joint-plain"):
        assert not any("think" in str(text) for text in world.expert_texts(reads, "F"))


def test_a_second_step_follows_the_chain_of_a_stranger(world):
    for group in GROUPS:
        group_people = {t.a for t in world.sets[group]}
        for text in world.expert_texts("hop2", group):
            if "think :" in text.prompt:
                assert not any(person in text.prompt for person in group_people)


def test_an_unrelated_expert_reads_jobs(world):
    texts = list(map(str, world.expert_texts("job", "H")))
    t = world.sets["H"][0]
    assert any(t.a in text for text in texts) and any(t.b in text for text in texts)
    assert not any(t.c in text for text in texts)


def test_alternatives_are_other_questions_right_answers(world):
    questions, others = world.questions("F", "direct"), world.alternatives("F", "direct")
    for question, alternatives in zip(questions, others, strict=True):
        assert alternatives and question.completion not in alternatives
        assert all(world.score(question, completion) == "wrong city" for completion in alternatives)
    assert world.alternatives("F", "cot") == world.alternatives("base", "direct") == []


def test_facts_in_context_are_the_questions_own(world):
    for t, texts in zip(world.sets["H"], world.in_context("H"), strict=True):
        assert [str(text) for text in texts] == [
            f"the spouse of {t.a} is {t.b} .",
            f"the home of {t.b} is {t.c} .",
        ]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"people": 61}, "task.people = 61"),
        ({"set_cities": 51}, "task.set_cities = 51"),
        (
            {"held_out": 0.1},
            "task.held_out = 0.1 must be below 1 and above 1 - task.question_share = 0.20",
        ),
        ({"dose": 1.5}, "task.dose = 1.5"),
        ({"people": 4000}, "names asked for, and the words at hand make [0-9]+: ask for fewer"),
    ],
)
def test_impossible_worlds_are_explained(values, message):
    with pytest.raises(ValueError, match=message):
        TwoHop(TwoHopConfig(**values), 0)
