"""What a checkpoint knows: facts that a study may build on are asked first, and used if known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models import Model, Vocabulary, greedy
from recycle.run import progress
from tasks import Question, World

BATCH = 64  # questions that are answered together
TOKENS = 8  # of an answer: more than any name needs


def known_facts(model: Model, tokenizer: Vocabulary, world: World) -> tuple[str, ...]:
    """The world's facts of which the model answers every question right, greedily."""
    facts: Mapping[str, Sequence[Question]] = world.facts()
    asked = [(fact, question) for fact, questions in facts.items() for question in questions]
    wrong = set()
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        progress.current().say(f"asking what the checkpoint knows: {start} of {len(asked)}")
        prompts = [[tokenizer.boundary, *tokenizer.encode(q.prompt)] for _, q in part]
        answers = greedy(model, prompts, TOKENS, tokenizer.boundary, tokenizer.pad)
        for (fact, question), ids in zip(part, answers, strict=True):
            if world.score(question, tokenizer.decode(ids)) != "right":
                wrong.add(fact)
    return tuple(fact for fact in facts if fact not in wrong)
