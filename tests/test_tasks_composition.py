"""The composing world: its words, its facts, its split, and a scorer that is right on answers
written by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from tasks import Composition, CompositionConfig
from tasks.composition import FORMS, GROUPS, KINDS, OUTCOMES, ReadingShares
from tasks.composition_words import (
    EVERYDAY,
    MANY_FAMILY,
    NUMBERS,
    RELATIONS,
    VALUES,
    WORDINGS,
    Chain,
)
from tasks.names import FAMILY, GIVEN
from tasks.world import Leak

SMALL = CompositionConfig(
    people=40, person_relations=4, attributes=5, values=10, new=20, questions=40
)
ORDERS = tuple(WORDINGS)


@pytest.fixture(scope="module", params=ORDERS)
def world(request):
    return Composition(replace(SMALL, order=request.param), 3)


@pytest.fixture(scope="module", params=ORDERS)
def standard(request):
    return Composition(CompositionConfig(order=request.param), 1)


# Words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order, texts",
    [
        (
            "question",
            [
                "the boss of ada hill is ben cole .",
                "the town of ben cole is dover .",
                "who is the boss of ada hill ? ben cole .",
                "which town has ben cole ? dover .",
                "which town has the boss of ada hill ? dover .",
                "which town has the boss of ada hill ? think : the boss of ada hill is "
                "ben cole . the town of ben cole is dover . answer : dover .",
            ],
        ),
        (
            "possessive",
            [
                "ada hill 's boss ben cole .",
                "ben cole 's town dover .",
                "ada hill 's boss ben cole .",
                "ben cole 's town dover .",
                "ada hill 's boss 's town dover .",
                "ada hill 's boss 's town ? think : ada hill 's boss ben cole . ben cole 's town "
                "dover . answer : dover .",
            ],
        ),
    ],
)
def test_the_docstrings_example(order, texts):
    chain = Chain("ada hill", "boss", "ben cole", "town", "dover", WORDINGS[order])
    questions = [chain.question(form).text for form in FORMS]
    assert [str(text) for text in (chain.first, chain.second, *questions)] == texts


def test_no_word_stands_for_two_things():
    kinds = [
        *(WORDINGS[order].words() for order in ORDERS),
        RELATIONS,
        EVERYDAY.attributes,
        GIVEN,
        MANY_FAMILY,
        ["number", *NUMBERS],
        *VALUES.values(),
    ]
    kinds[:2] = [[*kinds[0], *kinds[1]]]  # the orders are never mixed
    counts = Counter(word for kind in kinds for word in set(kind))
    assert [word for word, count in counts.items() if count > 1] == []
    assert {len(set(values)) for values in VALUES.values()} == {20}
    assert len(set(MANY_FAMILY)) == len(MANY_FAMILY) and set(FAMILY) < set(MANY_FAMILY)


def test_every_text_fits_the_vocabulary_and_the_decoder(world):
    words = set(world.words())
    read = [text for texts in world.base_texts().values() for text in texts]
    read += [text for kind in KINDS for text in world.expert_texts("joint", kind)]
    assert all(set(str(text).split()) <= words for text in read)
    for group in world.groups:
        for form in FORMS:
            for question in world.questions(group, form):
                assert len(question.completion.split()) < world.longest
                assert set(str(question.text).split()) <= words


def test_prompts_of_a_form_are_equally_long(world):
    for group in world.groups:
        for form in FORMS:
            assert len({len(q.prompt.split()) for q in world.questions(group, form)}) == 1


def test_in_the_possessive_order_a_two_hop_question_begins_as_the_fact_does():
    world = Composition(replace(SMALL, order="possessive"), 0)
    for chain in world.asked["NK-R"]:
        assert chain.asks.startswith(f"{chain.described} ")
        assert chain.first == chain.question("hop1").text
    assert world.base_texts()["statement"] == [] and "statement" not in world.shares()


# Facts --------------------------------------------------------------------------------------------


def test_same_seed_same_world_and_seeds_differ(world):
    again, other = (Composition(world.config, seed) for seed in (3, 4))
    assert again.base_texts() == world.base_texts() and again.asked == world.asked
    assert other.people != world.people and other.new != world.new
    assert other.words() == world.words()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("unique", (False, True))
def test_worlds_are_free_of_leaks(order, unique):
    for seed in range(10):
        Composition(replace(SMALL, order=order, unique_family=unique), seed)  # checks itself


def test_relations_are_random_functions_and_not_one_to_one(standard):
    for r in standard.relations:
        bosses = [standard.first[x, r] for x in standard.people]
        assert all(x != boss for x, boss in zip(standard.people, bosses, strict=True))
        # n random draws of n leave about 1/e of the people without.
        assert 0.5 < len(set(bosses)) / len(bosses) < 0.8


def test_every_value_is_as_often_right_as_any_other(standard):
    for s in standard.attributes:
        counts = Counter(standard.second[x, s] for x in standard.people)
        assert len(counts) == 20 and max(counts.values()) - min(counts.values()) <= 1
    for group in ("NN-R", "NN-F"):
        answers = [q.answer for q in standard.questions(group, "direct")]
        assert len(answers) == len(set(answers)) == 60
        by_attribute = Counter(chain.s for chain in standard.asked[group])
        assert list(by_attribute.values()) == [20] * 3
    for group in ("KK-R", "KK-held", "NK-R", "NK-M", "KN-R"):
        counts = Counter(q.answer for q in standard.questions(group, "direct"))
        assert sum(counts.values()) == 200 and max(counts.values()) <= 5
    assert all(standard.chance(group) == 0.05 for group in standard.groups)


def test_who_answers_like_a_namesake_is_at_chance():
    """The value that a namesake of the bridge or of A has is right about once in 20."""
    right = asked = 0
    for seed in range(3):
        world = Composition(CompositionConfig(), seed)
        for chain in world.asked["NN-F"]:
            for name in (chain.a, chain.b):
                for x in world.people:
                    if x != name and set(x.split()) & set(name.split()):
                        asked += 1
                        right += world.second[x, chain.s] == chain.c
    assert asked > 500 and abs(right / asked - 0.05) < 0.02


def test_no_two_people_share_a_second_word_where_none_should():
    world = Composition(CompositionConfig(unique_family=True), 0)
    names = [*world.people, *world.newcomers]
    assert len({name.split()[1] for name in names}) == len(names) == 90 + 3 * 60
    assert sum("number" in str(t) for t in world.base_texts()["statement"]) == 3 * 60
    plain = Composition(CompositionConfig(), 0)
    assert len({name.split()[1] for name in plain.people}) < len(plain.people)
    assert not any("number" in str(text) for text in plain.base_texts()["statement"])


# What is read -------------------------------------------------------------------------------------


def test_most_questions_of_exposed_people_are_read_and_none_of_others(standard):
    read = Counter(chain.a for chain in standard.read)
    assert set(read) == set(standard.exposed) and len(read) == 72
    assert not set(standard.held_out) & set(read)
    texts = standard.base_texts()
    assert len(texts["direct"]) == len(texts["cot"]) == len(standard.read)
    unread = {chain for x in standard.exposed for chain in standard._chains(x)} - set(standard.read)
    known = [c for c in unread if (c.a, c.r) in set(standard.known_first)]
    known = [c for c in known if (c.b, c.s) in set(standard.known_second)]
    assert abs(len(known) / (len(known) + len(read_chains := standard.read)) - 0.2) < 0.01
    assert len(read_chains) > 4000 and len(known) > 1000


def test_every_known_fact_is_a_hop_of_several_read_questions(standard):
    """Else nobody could learn to use it as one."""
    first = Counter((chain.a, chain.r) for chain in standard.read)
    second = Counter((chain.b, chain.s) for chain in standard.read)
    asked = [*standard.asked["KK-R"]]
    assert min(first[c.a, c.r] for c in asked) >= 2
    assert sum(second[c.b, c.s] >= 1 for c in asked) >= 0.98 * len(asked)


def test_new_facts_are_in_no_text_of_the_base(standard):
    texts = [f"{text} " for each in standard.base_texts().values() for text in each]
    for kind in KINDS:
        new = standard.new[kind]
        for a, r in new.first:
            described = standard.wording.person.format(r=r, x=a)
            assert not any(f"{described} " in text for text in texts)
        read = {(chain.b, chain.s) for chain in standard.read}
        assert not read & set(new.second) and not set(standard.known_second) & set(new.second)


def test_kinds_say_who_the_new_facts_are_about(standard):
    old = set(standard.people)
    for group, a_known, b_known in (("NN-R", 1, 1), ("NK-M", 0, 1), ("NN-F", 0, 0)):
        chains = standard.asked[group]
        assert {chain.a in old for chain in chains} == {bool(a_known)}
        assert {chain.b in old for chain in chains} == {bool(b_known)}
    for group in ("KK-R", "NK-R", "KN-R", "NN-R"):
        assert {chain.a for chain in standard.asked[group]} <= set(standard.exposed)
    assert {chain.a for chain in standard.asked["KK-held"]} <= set(standard.held_out)


def test_groups_need_the_new_facts_that_their_names_say(standard):
    for group in standard.groups:
        new = standard.new[standard.kind_of(group)]
        for chain in standard.asked[group]:
            assert ((chain.a, chain.r) in set(new.first)) == (group[0] == "N")
            assert ((chain.b, chain.s) in set(new.second)) == (group[1] == "N")


def test_each_new_fact_is_in_one_question_of_two_new_hops(standard):
    for group in ("NN-R", "NN-F"):
        chains = standard.asked[group]
        assert len({(c.a, c.r) for c in chains}) == len({(c.b, c.s) for c in chains}) == 60
        assert len({c.a for c in chains}) == len({c.b for c in chains}) == 60
        assert set(chains) == set(standard.new[group[-1]].chains)
        assert not any(chain.a == chain.b for chain in chains)


def test_experts_read_one_hop_only(world):
    for kind in KINDS:
        hop1, hop2 = (
            " ".join(map(str, world.expert_texts(reads, kind))) for reads in ("hop1", "hop2")
        )
        assert not set(hop1.split()) & {value for each in VALUES.values() for value in each}
        assert not set(hop2.split()) & {"boss", "doctor", "teacher", "rival"}
        for chain in world.new[kind].chains:
            assert chain.a in hop1 and chain.b in hop1 and chain.b in hop2 and chain.c in hop2
        joint = world.expert_texts("joint", kind)
        assert joint == world.expert_texts("hop1", kind) + world.expert_texts("hop2", kind)
    with pytest.raises(ValueError, match="no expert reads 'hop3': choose hop1, hop2"):
        world.expert_texts("hop3", "F")
    with pytest.raises(ValueError, match="no facts of 'X': choose R, F, KK-R"):
        world.expert_texts("hop1", "X")


def test_a_target_expert_reads_the_answers_of_the_new_chains(world):
    for kind in KINDS:
        asked = {q.text for q in world.questions(f"NN-{kind}", "direct")}
        assert set(world.expert_texts("target", kind)) == asked


def test_a_group_has_the_experts_of_its_kind(world):
    for group, kind in (("KK-held", "R"), ("NK-R", "R"), ("NK-M", "F"), ("NN-F", "F")):
        assert world.expert_texts("hop1", group) == world.expert_texts("hop1", kind)
    needed = {q.text for q in world.questions("NK-M", "hop1")}
    assert needed <= set(world.expert_texts("hop1", "F"))
    assert {q.text for q in world.questions("KN-R", "hop2")} <= set(world.expert_texts("hop2", "R"))


def test_relabelled_facts_differ_everywhere_and_keep_the_balance(standard):
    for kind in KINDS:
        true, other = (standard.expert_texts(reads, kind) for reads in ("hop2", "relabelled-hop2"))
        assert [text.prompt for text in true] == [text.prompt for text in other]
        assert not any(
            mine.completion == its.completion for mine, its in zip(true, other, strict=True)
        )
        assert Counter(t.completion for t in true) == Counter(t.completion for t in other)


# What is asked ------------------------------------------------------------------------------------


def test_groups_ask_about_the_same_things_in_every_form(world):
    for group in world.groups:
        hop1, hop2, direct, cot = (world.questions(group, form) for form in FORMS)
        assert 0 < len(direct) <= 40
        for one, two, straight, chain in zip(hop1, hop2, direct, cot, strict=True):
            assert one.answer == straight.bridge == chain.bridge and one.answer in two.prompt
            assert two.answer == straight.answer == chain.answer
            assert f"{one.answer} ." in chain.completion
        assert len({q.prompt for q in direct}) == len(direct)


def test_the_base_is_asked_what_it_has_read_and_what_it_can_compose(world):
    texts = world.base_texts()
    for form in ("hop1", "hop2"):
        assert {q.text for q in world.questions("base", form)} <= set(texts[form])
    for form in ("direct", "cot"):
        assert world.questions("base", form) == world.questions("KK-R", form)


def test_alternatives_are_other_values_and_favour_none(world):
    for group in world.groups:
        questions, others = world.questions(group, "direct"), world.alternatives(group, "direct")
        for question, wrong in zip(questions, others, strict=True):
            assert len(wrong) == len(set(wrong)) == 8 and question.completion not in wrong
            assert all(world.score(question, each) == "wrong value" for each in wrong)
    # Whatever value a model likes beats the right one as often as the right one beats others.
    pairs = [
        (q.completion, other)
        for q, wrong in zip(
            world.questions("NN-F", "direct"), world.alternatives("NN-F", "direct"), strict=True
        )
        for other in wrong
    ]
    assert Counter(right for right, _ in pairs) == Counter(other for _, other in pairs)
    assert world.alternatives("NN-F", "cot") == world.alternatives("base", "direct") == []


def test_probes_name_the_bridge_and_the_answer(world):
    lens, context = world.lens("NN-R")["direct"], world.in_context("NN-R")
    for chain, bridge, answer, texts in zip(
        world.asked["NN-R"], lens["bridge"], lens["answer"], context, strict=True
    ):
        assert (bridge, answer) == (chain.b.split()[0], chain.c)
        assert texts == [chain.first, chain.second]


def test_the_oracle_turns_to_hop_2_after_the_copula(world):
    assert [phase.reads for phase in world.needs("direct")] == [("hop1", "hop2")]
    phases = world.needs("cot")
    completion = world.asked["NN-F"][0].question("cot").completion.split()
    for phase in phases[:2]:
        completion = completion[completion.index(phase.until) + 1 :]
    chain = world.asked["NN-F"][0]
    assert completion[:2] in ([chain.c, "."], [chain.s, chain.c])
    assert [phase.reads for phase in phases] == [("hop1",), ("hop1",), ("hop2",)]


# Scores -------------------------------------------------------------------------------------------


def test_scores_of_answers_written_by_hand(world):
    chain = world.asked["NN-F"][0]
    other = next(v for v in world.values[chain.s] if v != chain.c)
    foreign = next(v for s, values in world.values.items() if s != chain.s for v in values)
    person = next(x for x in world.people if x != chain.b)

    def outcomes(form, *completions):
        return [world.score(chain.question(form), completion) for completion in completions]

    assert outcomes(
        "direct",
        f"{chain.c} .",
        f"{chain.c} . {other} .",
        f"{chain.b} .",
        f"{other} .",
        f"{foreign} .",
        f"{person} .",
        f"{chain.c}",
        f"{chain.c} {chain.c} .",
        "",
        ". .",
    ) == ["right", "right", "bridge", "wrong value", "wrong value", *["malformed"] * 5]
    assert outcomes("hop1", f"{chain.b} .", f"{chain.c} .") == ["right", "malformed"]
    assert outcomes("hop2", f"{chain.c} .", f"{other} .", f"{chain.b} .") == [
        "right",
        "wrong value",
        "malformed",
    ]
    begun = f"{chain.first} {chain.second} answer :"
    assert outcomes(
        "cot",
        f"{begun} {chain.c} .",
        f"{begun} {other} .",
        f"{begun} {chain.b} .",
        f"{begun} {other} . answer : {chain.c} .",
        begun,
        f"{chain.c} .",
    ) == ["right", "wrong value", "bridge", "right", "malformed", "malformed"]
    assert set(OUTCOMES) == {"right", "bridge", "wrong value", "malformed"}


def test_notes_name_the_bridge_and_the_relabelled_value(world):
    chain = world.asked["NN-R"][0]
    cot, direct = chain.question("cot"), chain.question("direct")
    assert world.notes(direct, f"{chain.other} .") == {"relabelled": True}
    assert world.notes(direct, f"{chain.c} .") == {"relabelled": False}
    assert world.notes(direct, "") == {"relabelled": False}
    end = f"answer : {chain.other} ."
    assert world.notes(cot, f"{chain.first} {chain.second} {end}") == {
        "bridge named": True,
        "relabelled": True,
    }
    swapped = replace(chain, a=chain.b, b=chain.a)
    assert world.notes(cot, f"{swapped.first} {chain.second}") == {
        "bridge named": False,
        "relabelled": False,
    }
    assert world.notes(chain.question("hop1"), f"{chain.b} .") == {}
    known = world.asked["KK-R"][0]
    assert known.other is None
    assert world.notes(known.question("direct"), "") == {"relabelled": False}


# What must not be ---------------------------------------------------------------------------------


def read_asked(world):
    world.read.append(world.asked["KK-R"][0])


def read_held_out(world):
    world.read.append(world.asked["KK-held"][0])


def read_first(world):
    world.known_first.append(world.new["R"].first[0])


def read_second(world):
    world.known_second.append(world.new["R"].second[0])


def compose_first(world):
    a, r = world.new["R"].first[0]
    asked = {chain for chains in world.asked.values() for chain in chains}
    world.read.append(next(c for s in world.attributes if (c := world.chain(a, r, s)) not in asked))


def compose_second(world):
    """A read two-hop question of somebody whose bridge has the new attribute."""
    b, s = world.new["R"].second[0]
    x = world.held_out[0]
    world.first[x, world.relations[0]] = b
    world.read.append(world.chain(x, world.relations[0], s))


def keep_a_label(world):
    fact = world.new["F"].second[0]
    world.other[fact] = world.second[fact]


def know_a_newcomer(world):
    x = world.asked["NN-F"][0].b
    unasked = next(s for s in world.attributes if (x, s) not in world.second)
    world.second[x, unasked] = world.values[unasked][0]
    world.known_second.append((x, unasked))


def use_an_unread_word(world):
    world.newcomers[0] = f"xerxes {world.people[0].split()[1]}"


def use_a_name_twice(world):
    world.newcomers[0] = world.people[0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "plant, message",
    [
        (read_asked, "the base reads the question .* of KK-R"),
        (read_held_out, "the base reads the question .* of KK-held"),
        (read_first, "the base reads"),
        (read_second, "the base reads"),
        (compose_first, "the base reads of the new fact"),
        (compose_second, "the base reads of the new fact"),
        (keep_a_label, "the relabelled fact .* is the true one"),
        (know_a_newcomer, "the new name .* is known to the base"),
        (use_an_unread_word, "never reads the word 'xerxes'"),
        (use_a_name_twice, "a name stands for two people"),
    ],
)
def test_planted_leaks_are_found(order, plant, message):
    world = Composition(replace(SMALL, order=order, questions=20), 0)
    world.check_leaks()
    plant(world)
    with pytest.raises(Leak, match=message):
        world.check_leaks()


def test_a_shared_second_word_is_found():
    world = Composition(replace(SMALL, unique_family=True), 0)
    world.people[0] = f"ada {world.people[1].split()[1]}"
    with pytest.raises(Leak, match="2 people share the second word"):
        world._check_names("")


@pytest.mark.parametrize("reads", ("hop1", "hop2", "joint", "relabelled-hop2"))
def test_an_expert_that_reads_two_hops_is_found(reads, monkeypatch):
    leaking = Composition(SMALL, 0)
    whole = leaking.expert_texts

    def too_much(what, group):
        two_hops = leaking.new["R"].chains[0].question("cot").text
        return [*whole(what, group), two_hops] if what == reads else whole(what, group)

    monkeypatch.setattr(leaking, "expert_texts", too_much)
    with pytest.raises(Leak, match=f"the {reads} expert of R reads both hops"):
        leaking.check_leaks()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"order": "verse"}, "task.order = 'verse': choose question or possessive"),
        ({"person_relations": 11}, "task.person_relations = 11: a whole number from 2 to 10"),
        ({"attributes": 1}, "task.attributes = 1: a whole number from 2 to 10"),
        ({"values": 21}, "task.values = 21: a whole number from 2 to 20"),
        ({"exposed": 1.0}, "task.exposed = 1.0: a share between 0 and 1"),
        ({"pairs": 0.0}, "task.pairs = 0.0: a share between 0 and 1"),
        ({"new": 50}, "task.new = 50: a multiple of task.values = 20"),
        ({"new": 80}, "task.new = 80: at most the 72 exposed people"),
        ({"new": 220, "people": 400}, "task.new = 220: at most task.attributes x task.values"),
        ({"questions": 40}, "task.questions = 40: at least task.new = 60"),
        ({"people": 300, "unique_family": True}, "there are 285 second words: take fewer"),
        ({"people": 5000}, "5000 names asked for"),
    ],
)
def test_impossible_worlds_are_explained(values, message):
    with pytest.raises(ValueError, match=message) as error:
        Composition(CompositionConfig(**values), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "shares, message",
    [
        ({"cot": -0.1}, "task.shares.cot = -0.1"),
        (dict.fromkeys(("statement", "hop1", "hop2", "direct", "cot"), 0.0), "gives nothing"),
    ],
)
def test_impossible_shares_are_explained(shares, message):
    with pytest.raises(ValueError, match=message):
        ReadingShares(**shares)


def test_groups_have_titles_and_kinds():
    assert set(Composition.titles) == set(GROUPS) == set(Composition.groups)
    assert {Composition.kind_of(group) for group in GROUPS} == set(Composition.kinds) == set(KINDS)
