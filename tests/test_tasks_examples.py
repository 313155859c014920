"""Questions to learn from: about nobody who is asked about afterwards, and the same for a seed."""

import pytest

from tasks import (
    Composition,
    CompositionConfig,
    English,
    EnglishConfig,
    Text,
    TwoHop,
    TwoHopConfig,
    WordMath,
    WordMathConfig,
    named,
)
from tasks.world import Question, World

SMALL_COMPOSITION = CompositionConfig(
    people=40, person_relations=4, attributes=5, values=10, new=20, questions=40
)


def pairs(examples):
    return [(question.prompt, question.completion) for question in examples]


@pytest.fixture(scope="module")
def worlds():
    return {
        "two-hop": TwoHop(TwoHopConfig(people=60, cities=12, triples=12, set_cities=4), 3),
        "composition": Composition(SMALL_COMPOSITION, 3),
        "english": English(EnglishConfig(triples=12, answers=6), 3),
        "word-math": WordMath(WordMathConfig(problems=100, expert_problems=20, questions=10), 3),
    }


@pytest.mark.parametrize("name", ["two-hop", "composition", "english", "word-math"])
def test_no_example_shares_anybody_with_a_question_that_is_asked(worlds, name):
    world = worlds[name]
    for group in world.groups:
        examples, asked = world.examples(group, 5)
        assert len(examples) == 5 and len(set(asked)) == len(asked) > 0
        assert {q.form for q in examples} == {world.target}
        people = world.about(group)
        for question in examples:
            assert world.score(question, question.completion) == "right"
            for row in asked:
                assert named(people[row], str(question.text)) is None
        assert world.apart_from(group, pairs(examples)) == list(asked)


@pytest.mark.parametrize("name", ["two-hop", "composition", "english"])
def test_examples_are_questions_of_the_group_whose_facts_the_experts_hold(worlds, name):
    world = worlds[name]
    for group in world.groups:
        questions = world.questions(group, world.target)
        examples, asked = world.examples(group, 4)
        rows = [questions.index(question) for question in examples]
        assert len(set(rows)) == 4 and not set(rows) & set(asked)


def test_fewer_examples_are_the_first_of_more_and_a_seed_draws_the_same(worlds):
    for world in worlds.values():
        group = world.groups[0]
        many, few = world.examples(group, 5), world.examples(group, 2)
        assert many.examples[:2] == few.examples and set(many.asked) <= set(few.asked)
        again = type(world)(world.config, world.seed)
        assert again.examples(group, 5).examples == many.examples
    one, other = (TwoHop(worlds["two-hop"].config, seed) for seed in (3, 4))
    rows = [
        [world.questions("F", "direct").index(q) for q in world.examples("F", 5).examples]
        for world in (one, other)
    ]
    assert rows[0] != rows[1]


def test_triples_share_nobody_so_only_the_examples_are_held_out(worlds):
    world = worlds["two-hop"]
    for count in (1, 5, 11):
        assert len(world.examples("F", count).asked) == 12 - count


def test_people_who_are_met_again_are_taken_first(worlds):
    """In a web of relations an example costs the questions about both its people."""
    world = worlds["composition"]
    examples, asked = world.examples("NK-R", 8)
    rows = [world.questions("NK-R", "direct").index(q) for q in examples]
    met = frozenset().union(*(world.about("NK-R")[row] for row in rows))
    assert len(met) < 2 * 8 and len(asked) >= 16


def test_word_problems_are_further_ones_with_graphs_of_their_own(worlds):
    world = worlds["word-math"]
    examples, asked = world.examples("prose", 20)
    assert list(asked) == list(range(10))
    graphs = {problem.graph("base") for problem in world.asked}
    for question in examples:
        assert world.reader(question.problem) == "test"
        assert graphs.isdisjoint(question.problem.beginnings())


def test_too_many_examples_are_refused(worlds):
    for name, group, count in (
        ("two-hop", "F", 12),
        ("composition", "NN-F", 20),
        ("english", "K", 100),
    ):
        with pytest.raises(ValueError, match=f"examples = {count}: group {group} has .*none would"):
            worlds[name].examples(group, count)


def test_an_example_of_another_group_is_known_by_its_people(worlds):
    """A direct question does not name its bridge, and shares it all the same."""
    world = worlds["composition"]
    question = world.questions("KN-R", "direct")[0]
    people = world.about("KN-R")[0]
    assert world.whom(question.prompt) == people and named(people, question.prompt) in people
    rows = world.apart_from("NK-R", pairs([question]))
    assert rows == [i for i, own in enumerate(world.about("NK-R")) if not own & people]
    assert world.whom("who ?") == frozenset()


def test_names_are_found_as_whole_words():
    names = ("ada hill", "max")
    assert named(names, "where does ada hill live ?") == "ada hill"
    assert named(names, "Who is ada hill? maxwell") == "ada hill"
    assert named(names, "ada hillman and maxwell") is None and named((), "ada") is None
    assert named(("St. Ives",), "in St. Ives.") == "St. Ives"


class Parity(World):
    """A world with nothing of its own to say about examples."""

    name, groups, forms, outcomes = "parity", ("short",), ("count", "both"), ("right", "wrong")

    def __init__(self, config, seed):
        self.seed = seed

    def base_texts(self):
        return {"count": [Text("ones in 1 0 1 :", "2 .")]}

    def questions(self, group, form):
        return [Question(form, f"{form} of {n:03b} :", f"{n} .", str(n)) for n in range(8)]

    def score(self, question, completion):
        return "right" if completion.split()[:1] == [question.answer] else "wrong"

    def words(self):
        return []

    def shares(self):
        return {}

    def expert_texts(self, reads, group):
        return []

    def chance(self, group):
        return 1 / 8


def test_a_new_world_has_examples_without_a_line():
    world = Parity(None, 0)
    examples, asked = world.examples("short", 3)
    assert world.target == "both" and len(asked) == 5
    assert {q.form for q in examples} == {"both"}
    assert world.apart_from("short", [("count of 001 :", "1 .")]) == [0, 2, 3, 4, 5, 6, 7]
