"""What a checkpoint knows: facts that a study may build on are asked first, and used if known."""

from __future__ import annotations

from models import Model, Vocabulary, complete
from tasks import World

BATCH = 64  # questions that are answered together
TOKENS = 8  # of an answer: more than any name needs


def known_facts(model: Model, tokenizer: Vocabulary, world: World) -> tuple[str, ...]:
    """The world's facts of which the model answers every question right, greedily."""
    facts = world.facts()
    asked = [(fact, question) for fact, own in facts.items() for question in own]
    said = complete(model, tokenizer, [q.prompt for _, q in asked], TOKENS, BATCH)
    wrong = {
        fact
        for (fact, question), words in zip(asked, said, strict=True)
        if world.score(question, words) != "right"
    }
    return tuple(fact for fact in facts if fact not in wrong)
