"""Why a direct question is answered with another city, where the one-layer theory expects the
bridge: two measurements.

A word of the question sets the type of the answer, and the experts do not: "who is the spouse of A
?" wants a person, and the same words with "live" before the "?" want a city. The city itself is
memory of the direct questions that the base has read: it tends to be the city of a namesake of A,
a person with the same given or family name.
"""

from collections.abc import Sequence

from tasks import TwoHop
from tasks.two_hop_words import PROMPTS, Triple
from theory.against_study.answers import Trained

PERSON = PROMPTS["hop1"]
CITY = PERSON.replace(" ?", " live ?")


def people_mass(trained: Trained, triples: Sequence[Triple], pattern: str) -> float:
    """Probability of all people together at the answer to a question of this pattern, mean over the
    triples' As."""
    logp = trained.logprobs([pattern.format(a=t.a) for t in triples])
    return float(logp[:, trained.names.people].exp().sum(1).mean())


def namesake_cities(task: TwoHop, person: str) -> set[str]:
    """The answers to the direct questions that the base has read about namesakes of the person."""
    words = person.split()

    def is_namesake(other: str) -> bool:
        return any(a == b for a, b in zip(words, other.split(), strict=True))

    return {task.triple(other).c for other in task.exposed if is_namesake(other)}


def namesake_share(
    trained: Trained, task: TwoHop, triples: Sequence[Triple]
) -> tuple[float, float]:
    """How often the most probable city of a direct question is a namesake's, and how often a random
    city of the world would be."""
    names = trained.names
    logp = trained.logprobs([t.question("direct").prompt for t in triples])
    best = [names.cities[i] for i in logp[:, ~names.people].argmax(1).tolist()]
    theirs = [namesake_cities(task, t.a) for t in triples]
    hits = sum(city in read for city, read in zip(best, theirs, strict=True))
    return hits / len(triples), sum(map(len, theirs)) / len(task.cities) / len(triples)
