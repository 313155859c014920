"""The world: what is read and asked, the split, and a scorer that is right on answers written by hand."""

import pytest

from tasks import TwoHop, TwoHopConfig
from tasks.two_hop import FORMS, LONGEST_COMPLETION, OUTCOMES, Leak, Triple

SMALL = TwoHopConfig(people=60, cities=12, triples=8, set_cities=4)


@pytest.fixture(scope="module")
def world():
    return TwoHop(SMALL, seed=3)


def test_the_docstrings_example():
    triple = Triple("ada hill", "max cole", "port haven")
    assert str(triple.question("hop1").text) == "who is the spouse of ada hill ? answer : max cole ."
    assert str(triple.question("hop2").text) == "where does max cole live ? answer : port haven ."
    assert str(triple.question("direct").text) == "where does the spouse of ada hill live ? answer : port haven ."
    assert str(triple.question("cot").text) == (
        "where does the spouse of ada hill live ? think : the spouse of ada hill is max cole . the home of max cole is "
        "port haven . answer : port haven ."
    )


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
    assert world.expert_texts("joint", "F") == world.expert_texts("hop1", "F") + world.expert_texts("hop2", "F")
    with pytest.raises(ValueError, match="no expert role 'hop3'"):
        world.expert_texts("hop3", "F")


def test_every_text_fits_the_vocabulary_and_the_decoder(world):
    words = set(world.words())
    for texts in world.base_texts().values():
        assert all(set(str(text).split()) <= words for text in texts)
    for s in "FHR":
        assert all(len(q.completion.split()) < LONGEST_COMPLETION for q in world.questions(s, "cot"))


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
    t = world.sets["F"][0]
    world.sets["H"][0] = Triple(t.a, *(lambda u: (u.b, u.c))(world.sets["H"][0]))


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

    def too_much(role, s):
        return [*whole(role, s), leaking.sets[s][0].question("direct").text]

    monkeypatch.setattr(leaking, "expert_texts", too_much)
    with pytest.raises(Leak, match="the hop1 expert of set F reads both ends"):
        leaking.check_leaks()


def outcomes(world, form, *completions):
    question = world.sets["F"][0].question(form)
    return [world.score(question, completion) for completion in completions]


def test_scores_of_answers_written_by_hand(world):
    t, other = world.sets["F"][0], world.sets["F"][1]
    assert t.c != other.c
    assert outcomes(world, "direct", f"{t.c} .", f"{t.b} .", f"{other.c} .", f"{world.cities[0]} .", f"{other.b} .",
                    f"{t.c}", "", ". .", f"{t.c} {t.c} .", f"{t.c} . {other.c} .") == [
        "right", "bridge", "wrong city", "wrong city", "malformed", "malformed", "malformed",
        "malformed", "malformed", "right"]  # fmt: skip
    assert outcomes(world, "hop1", f"{t.b} .", f"{t.c} .") == ["right", "malformed"]
    chain = f"the spouse of {t.a} is {t.b} . the home of {t.b} is {t.c} . answer : "
    assert outcomes(world, "cot", chain + f"{t.c} .", chain + f"{other.c} .", chain + f"{t.b} .", chain, f"{t.c} .") == [
        "right", "wrong city", "bridge", "malformed", "malformed"]  # fmt: skip
    assert set(OUTCOMES) == {"right", "bridge", "wrong city", "malformed"}


def test_a_chain_names_its_bridge_in_the_first_sentence(world):
    t = world.sets["F"][0]
    question = t.question("cot")
    assert world.names_bridge(question, f"the spouse of {t.a} is {t.b} . nonsense")
    assert not world.names_bridge(question, f"the spouse of {t.b} is {t.a} . the home of {t.b} is {t.c} .")
    assert not world.names_bridge(question, "")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"people": 61}, "task.people = 61"),
        ({"set_cities": 51}, "task.set_cities = 51"),
        ({"two_hop_share": 0.9}, "task.two_hop_share = 0.9"),
        ({"people": 4000}, "4400 names asked for|names asked for"),
    ],
)
def test_impossible_worlds_are_explained(values, message):
    with pytest.raises(ValueError, match=message):
        TwoHop(TwoHopConfig(**values), 0)
