"""What a trained transformer would answer: the log-probability of every name in its world, people
and cities alike.

A name is two words, so log p(name) = log p(first word) + log p(second word | first word). That is
exact, for all names at once, from one pass over the prompts and one step for each first word. The
theory speaks of bridges and of the second hop's answers; "other bridge" and "other city" are the
answers of the same type that belong to other questions of the set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models import Tokenizer, Transformer
from models.transformer import Cache
from tasks import TwoHop
from tasks.two_hop import NEW
from tasks.two_hop_words import Triple


@dataclass(frozen=True)
class Names:
    """All n names of a world, people first, then cities."""

    index: dict[str, int]  # name -> its row
    words: Tensor  # (n, 2) token ids
    people: Tensor  # (n,) bool

    @classmethod
    def of(cls, task: TwoHop, tokenizer: Tokenizer) -> "Names":
        triples = [t for s in NEW for t in task.sets[s]]
        people = dict.fromkeys([*task.people, *(name for t in triples for name in (t.a, t.b))])
        cities = dict.fromkeys([*task.cities, *(t.c for t in triples)])
        names = [*people, *cities]
        words = torch.tensor([tokenizer.encode(name) for name in names])
        index = {name: i for i, name in enumerate(names)}
        return cls(index, words, torch.arange(len(names)) < len(people))

    def find(self, names: Sequence[str]) -> Tensor:
        """(k,): the rows of these names."""
        return torch.tensor([self.index[name] for name in names])

    @property
    def cities(self) -> list[str]:
        return list(self.index)[int(self.people.sum()) :]


def tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """(q, length): the texts, all of one length in tokens, each as the start of a document."""
    return torch.tensor([[tokenizer.boundary, *tokenizer.encode(text)] for text in texts])


@torch.inference_mode()
def name_logprobs(model: Transformer, prompts: Tensor, words: Tensor) -> Tensor:
    """prompts (q, length) and names' words (n, 2) -> log p(name | prompt) (q, n), in float64."""
    rows, length = prompts.shape
    cache = Cache(model.config, rows, length + 1, model.embed_tokens.weight)
    states = model.hidden_states(prompts, cache)[:, -1]
    first = model.unembed(states).double().log_softmax(-1)  # (q, vocabulary)
    begun, place = words[:, 0].unique(return_inverse=True)
    cache.keep(torch.arange(rows).repeat_interleave(len(begun)))
    states = model.hidden_states(begun.repeat(rows)[:, None], cache)[:, -1]
    second = model.unembed(states).double().log_softmax(-1).unflatten(0, (rows, len(begun)))
    return first[:, words[:, 0]] + second[:, place, words[:, 1]]


@dataclass(frozen=True)
class Trained:
    """A trained model with its tokenizer and the names of its world."""

    model: Transformer
    tokenizer: Tokenizer
    names: Names

    def logprobs(self, texts: Sequence[str]) -> Tensor:
        """(q, n): log p(name | text) for all names, with the adapters that are active now."""
        return name_logprobs(self.model, tokens(self.tokenizer, texts), self.names.words)

    def answers(self, triples: Sequence[Triple], form: str) -> "Answers":
        """The answers to one form of the triples' questions: "hop1", "hop2" or "direct"."""
        texts = [t.question(form).prompt for t in triples]
        return judged(self.logprobs(texts), self.names, triples)


@dataclass(frozen=True)
class Choice:
    """Log-probabilities of one type's names for the q questions of a set."""

    logp: Tensor  # (q, names)
    own: Tensor  # (q,): the column of the name that belongs to each question

    def mine(self) -> float:
        """Mean log-probability of each question's own name."""
        return float(self.logp.gather(1, self.own[:, None]).mean())

    def others(self) -> float:
        """Mean log-probability of the other names of the type."""
        other = torch.ones_like(self.logp, dtype=torch.bool).scatter(1, self.own[:, None], False)
        return float(self.logp[other].mean())

    def lead(self) -> float:
        """How far the own name stands above the others, in nats."""
        return self.mine() - self.others()

    def top(self) -> float:
        """Share of questions whose own name is the most probable of the type; chance is 1 over the
        number of names."""
        return float((self.logp.argmax(1) == self.own).double().mean())

    def rank(self) -> float:
        """Mean rank of the own name, 1 the best; chance is (names + 1) / 2."""
        above = self.logp > self.logp.gather(1, self.own[:, None])
        return float(1 + above.sum(1).double().mean())


@dataclass(frozen=True)
class Answers:
    """One model's answers to one form of a set's questions; each number is a mean over them."""

    bridges: Choice  # among the first hop's answers, the set's Bs
    cities: Choice  # among the second hop's, the set's cities
    people_mass: float  # probability of all people together
    cities_mass: float
    best_city: float  # log-probability of the most probable city of all, the one answered
    ungated: float  # share of questions that the bridge would win if both types had equal mass


def judged(logp: Tensor, names: Names, triples: Sequence[Triple]) -> Answers:
    """logp (q, n) of all names, for the questions of these q triples in their order."""
    cities = sorted({t.c for t in triples})
    bridge = logp[:, names.find([t.b for t in triples])]
    people, towns = logp[:, names.people], logp[:, ~names.people]
    # Log-probabilities within a type: as if people and cities had equal mass.
    own = bridge.diagonal() - people.logsumexp(1)
    best_person = (people - people.logsumexp(1, True)).amax(1)
    best_town = (towns - towns.logsumexp(1, True)).amax(1)
    return Answers(
        Choice(bridge, torch.arange(len(triples))),
        Choice(logp[:, names.find(cities)], torch.tensor([cities.index(t.c) for t in triples])),
        people_mass=float(people.exp().sum(1).mean()),
        cities_mass=float(towns.exp().sum(1).mean()),
        best_city=float(towns.amax(1).mean()),
        ungated=float(((own >= best_person) & (own > best_town)).double().mean()),
    )
