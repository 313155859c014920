"""The English two-hop world: its chains, its texts, what it takes for known, and its scorer."""

import pytest

from tasks import English, EnglishConfig, Leak
from tasks import english_words as words
from tasks.english import FORMS, GROUPS, NEW_FIRST, NEW_SECOND, Triple
from tasks.english_words import COUNTRIES, LANDMARKS, SPOUSE_CITY


@pytest.fixture(scope="module")
def world():
    return English(EnglishConfig(), 0)


def test_the_worked_example():
    triple = Triple("Ada Hill", "Max Cole", "Boston", SPOUSE_CITY)
    said = {form: triple.question(form) for form in FORMS}
    assert str(said["hop1"].text) == "The spouse of Ada Hill is Max Cole."
    assert str(said["hop2"].text) == "The home city of Max Cole is Boston."
    assert str(said["possessive"].text) == "The home city of the spouse of Ada Hill is Boston."
    assert said["cot"].prompt.endswith("the spouse of Ada Hill live?\nThink:")
    assert said["cot"].completion == (
        "The spouse of Ada Hill is Max Cole. The home city of Max Cole is Boston. Answer: Boston."
    )
    assert (said["direct"].answer, said["direct"].bridge) == ("Boston", "Max Cole")


@pytest.mark.parametrize("seed", range(4))
def test_a_world_is_its_seed(seed):
    one, two = (English(EnglishConfig(triples=12, answers=6), seed) for _ in range(2))
    assert one.sets == two.sets
    assert one.sets != English(EnglishConfig(triples=12, answers=6), seed + 1).sets
    for group in GROUPS:
        assert 2 <= len(one.sets[group]) <= 12
        assert [len(one.questions(group, form)) for form in FORMS] == [len(one.sets[group])] * 5


def test_chance_is_that_of_the_best_constant_answer(world):
    for group in ("F", "H", "R", "NK"):
        assert world.chance(group) == pytest.approx(2 / 24)
    answers = [question.answer for question in world.questions("KN", "direct")]
    assert world.chance("KN") == max(answers.count(name) for name in answers) / len(answers)


def test_invented_names_are_no_known_names(world):
    real = {
        word
        for name in (*words.GIVEN, *words.FAMILY, *words.CITIES, *COUNTRIES, *LANDMARKS)
        for word in name.split()
    }
    for group in ("F", "H", "NK"):
        for t in world.sets[group]:
            assert not set(t.a.split()) & real, t.a
    for t in world.sets["F"]:
        assert not {*t.b.split(), t.c} & real
    assert {t.c for t in world.sets["H"]} <= set(words.CITIES)
    assert not {t.a for t in world.sets["R"]} & words.PUBLIC


def test_known_chains_are_true(world):
    for t in world.sets["K"]:
        assert LANDMARKS[t.a] == t.b and t.c in COUNTRIES[t.b]
    for t in world.sets["NK"]:
        assert COUNTRIES[t.b][0] == t.c
    for t in world.sets["KN"]:
        assert LANDMARKS[t.a] == t.b


# What the model knows ----------------------------------------------------------------------------


def test_only_what_the_model_knows_is_used():
    """Nine countries and their capitals, and the landmarks that stand there."""
    countries = list(COUNTRIES)[:9]
    landmarks = [x for x, country in LANDMARKS.items() if country in countries]
    known = [f"capital of {x}" for x in countries] + [f"country of {x}" for x in landmarks[1:]]
    world = English(EnglishConfig(triples=12, answers=8, known=tuple(known)), 0)
    assert {t.a for t in world.sets["K"]} <= set(landmarks[1:])
    assert all(t.c == COUNTRIES[t.b][0] for t in world.sets["K"])
    assert {t.b for t in world.sets["NK"]} <= set(countries)
    assert landmarks[0] not in {t.a for t in world.sets["KN"]}


def test_facts_are_asked_in_the_words_of_a_chain(world):
    facts = world.facts()
    assert len(facts) == len(LANDMARKS) + 3 * len(COUNTRIES)
    (capital,), (country,) = facts["capital of France"], facts["country of Mount Fuji"]
    assert (capital.prompt, capital.answer) == ("The capital of France is", "Paris")
    assert (country.prompt, country.answer) == ("Mount Fuji stands in the country of", "Japan")


def test_a_model_that_knows_too_little_is_said_where_the_group_is_asked():
    some = ("country of Mount Fuji", "country of the Louvre", "capital of Japan")
    world = English(EnglishConfig(known=some), 0)
    for group, count in (("K", 1), ("base", 1), ("NK", 1)):
        with pytest.raises(ValueError, match=f"the model knows {count} of the facts"):
            world.questions(group, "direct")
    with pytest.raises(ValueError, match="group NK: .* and 12 are needed"):
        world.expert_texts("hop1", "NK")
    assert len(world.questions("KN", "direct")) == 2 and world.chance("H") == 2 / 24


@pytest.mark.parametrize("sizes", [{"answers": 1}, {"triples": 4, "answers": 5}, {"answers": 99}])
def test_sizes_that_make_no_world(sizes):
    with pytest.raises(ValueError, match="task.answers = "):
        EnglishConfig(**sizes)


def test_too_many_people_are_refused():
    with pytest.raises(ValueError, match="invented people"):
        English(EnglishConfig(triples=400), 0)


# Texts -------------------------------------------------------------------------------------------


def test_an_expert_of_one_hop_reads_no_chain_whole(world):
    for group in GROUPS:
        for reads, groups in (("hop1", NEW_FIRST), ("hop2", NEW_SECOND)):
            if group not in groups:
                continue
            texts = list(map(str, world.expert_texts(reads, group)))
            for t in world.sets[group]:
                assert not any(t.a in text and t.c in text for text in texts), (group, reads)


def test_experts_read_the_template_from_their_own_side(world):
    (first,) = [x for x in world.expert_texts("hop1", "H") if not x.ends][:1]
    assert first.completion.endswith(" is") and first.completion.count(".") == 1
    steps = [x for x in world.expert_texts("hop2", "H") if "Think:" in x.prompt]
    assert len(steps) == 2 * 24
    for x in steps:
        name, city = x.prompt.removesuffix(".").split(" is ")[-1], x.completion.split(": ")[-1]
        assert x.completion == f"The home city of {name} is {city} Answer: {city}"
    plain = [str(x) for x in world.expert_texts("hop2-plain", "H")]
    assert not any("Think:" in text for text in plain)
    assert [str(x) for x in world.expert_texts("target", "H")] == [
        str(q.text) for q in world.questions("H", "direct")
    ]


def test_a_known_hop_has_no_expert(world):
    for group, reads in (("NK", "hop2"), ("KN", "hop1")):
        with pytest.raises(ValueError, match=f"no expert of group {group} reads '{reads}': choose"):
            world.expert_texts(reads, group)
    with pytest.raises(ValueError, match="group K is known to the model"):
        world.expert_texts("joint", "K")
    assert world.expert_texts("joint", "NK") == world.expert_texts("hop1", "NK")


def test_a_planted_leak_is_found(world, monkeypatch):
    t = world.sets["F"][0]
    leaking = Triple(t.a, t.b, t.c, SPOUSE_CITY).question("direct").text
    monkeypatch.setattr(English, "expert_texts", lambda self, reads, group: [leaking])
    with pytest.raises(Leak, match="reads both ends"):
        world.check_leaks()


def test_a_person_of_two_groups_is_found(world, monkeypatch):
    monkeypatch.setitem(world.sets, "H", world.sets["F"])
    with pytest.raises(Leak, match="stands twice"):
        world.check_leaks()


# Scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, outcome",
    [
        (" Boston.", "right"),
        ("Boston, in the east of the country", "right"),
        ("Boston", "right"),
        ("Bostonia.", "other text"),
        (" Max Cole.", "bridge"),
        (" Chicago.", "another answer"),
        ("", "other text"),
        ("the city of Boston", "other text"),
    ],
)
def test_what_a_completion_names_first_is_scored(world, monkeypatch, said, outcome):
    triple = Triple("Ada Hill", "Max Cole", "Boston", SPOUSE_CITY)
    other = Triple("Ivan Hill", "Nora Cole", "Chicago", SPOUSE_CITY)
    monkeypatch.setattr(world, "sets", {"H": [triple, other]})
    assert world.score(triple.question("direct"), said) == outcome


def test_a_chain_is_scored_by_its_last_answer(world):
    question = Triple("Ada Hill", "Max Cole", "Boston", SPOUSE_CITY).question("cot")
    assert world.score(question, question.completion) == "right"
    assert world.score(question, "Max Cole. Boston.") == "other text"
    assert world.score(question, "Answer: Rome. Answer: Boston.") == "right"
    assert world.notes(question, question.completion) == {"bridge named": True}
    assert world.notes(question, "The spouse of Ada Hill is Nora Cole.") == {"bridge named": False}
