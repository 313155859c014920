"""How much work a cell is, told before it is asked: in tokens of training that take as long.

    asked      ANSWERED for each word of the right answers, which are decoded one after the other
    learned    LEARNED for each word of the examples, through all steps of a method that learns
    read       READ for each word of a row of an expert's own texts, where a method learns from them

Measured on two cores, with the toy's two-hop facts (answers of 9 words) and the operations (42
words): 4.7 and 4.6 tokens for a word of an answer, about 200 and 240 for a word of an example.
"""

from __future__ import annotations

from functools import lru_cache

from recycle.reuse.method import Method
from tasks.world import World

ANSWERED, LEARNED, READ = 4.6, 220.0, 2.2
ROWS = 3_200  # of own texts that the experts of a pair read together
SOME = 20  # examples, where any number will do


def cell_tokens(world: World, group: str, method: Method) -> float:
    """The tokens of a cell of questions about a group under a method."""
    answers, text = _words(world, group)
    work = ANSWERED * answers
    if method.needs == "examples":
        work += LEARNED * (method.examples or SOME) * text
    elif method.needs == "texts":
        work += READ * ROWS * text
    return work


@lru_cache(maxsize=64)
def _words(world: World, group: str) -> tuple[int, float]:
    """The words of all right answers with their ends, and those of a question with its answer."""
    asked = [question for form in world.forms for question in world.questions(group, form)]
    answers = sum(len(question.completion.split()) + 1 for question in asked)
    prompts = sum(len(question.prompt.split()) for question in asked)
    return answers, (prompts + answers) / max(1, len(asked))
