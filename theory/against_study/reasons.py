"""Why a direct question is answered with some other city, where the one-layer theory expects the
bridge: two measurements.

The type of the answer is set by a word of the question, not by the experts: "who is the spouse of A
?" wants a person, and the same words with "live" before the "?" want a city. The city itself is
memory of the base's own direct questions: it tends to be the one it has read for a namesake of A
(same given or family name).
"""

from collections.abc import Sequence

import torch

from models import Tokenizer, Transformer
from tasks import TwoHop
from tasks.two_hop import SPOUSES, Triple
from theory.against_study.answers import Names, name_logprobs

PERSON = SPOUSES.prompts["hop1"]
CITY = PERSON.replace(" ?", " live ?")


def people_mass(
    model: Transformer, tokenizer: Tokenizer, names: Names, triples: Sequence[Triple], pattern: str
) -> float:
    """Probability of all people together at the answer to a question of this pattern, mean over the
    triples' As."""
    prompts = [[tokenizer.boundary, *tokenizer.encode(pattern.format(a=t.a))] for t in triples]
    return float(
        name_logprobs(model, torch.tensor(prompts), names.words)[:, names.people]
        .exp()
        .sum(1)
        .mean()
    )


def namesake_cities(task: TwoHop, person: str) -> set[str]:
    """The answers that the base has read to direct questions about people who share a word of the
    name."""
    words = person.split()
    namesakes = (
        other
        for other in task.exposed
        if any(a == b for a, b in zip(words, other.split(), strict=True))
    )
    return {task.triple(other).c for other in namesakes}


def namesake_share(
    model: Transformer, tokenizer: Tokenizer, names: Names, task: TwoHop, triples: Sequence[Triple]
) -> tuple[float, float]:
    """How often the most probable city of a direct question is a namesake's, and how often a random
    known city would be."""
    prompts = [
        [tokenizer.boundary, *tokenizer.encode(t.question("direct").prompt)] for t in triples
    ]
    cities = [
        name
        for name, is_person in zip(names.index, names.people.tolist(), strict=True)
        if not is_person
    ]
    best = (
        name_logprobs(model, torch.tensor(prompts), names.words)[:, ~names.people]
        .argmax(1)
        .tolist()
    )
    theirs = [namesake_cities(task, t.a) for t in triples]
    hits = sum(cities[place] in read for place, read in zip(best, theirs, strict=True))
    return hits / len(triples), sum(map(len, theirs)) / len(task.cities) / len(triples)
