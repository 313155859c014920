"""The words of a composition world, its two orders of words, and one chain of two facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks import world
from tasks.names import FAMILY, GIVEN
from tasks.world import Text

RELATIONS = tuple("boss doctor teacher rival friend neighbour lawyer coach landlord mentor".split())

# Each attribute with its values. No word of this file stands for two things, so an answer tells
# which attribute it is a value of.
VALUES: Mapping[str, tuple[str, ...]] = {
    "town": tuple(
        "ashford brighton calder dover exeter falmouth grantham harwich ipswich kendal lincoln "
        "margate newport oxford preston redhill stafford torquay ventnor whitby".split()
    ),
    "job": tuple(
        "actor butcher chemist dentist editor farmer gardener guard jeweller judge nurse painter "
        "pilot plumber poet printer sailor surgeon weaver welder".split()
    ),
    "colour": tuple(
        "amber azure beige black blue brown crimson cyan green indigo ivory lilac maroon navy "
        "ochre pink purple red teal yellow".split()
    ),
    "fruit": tuple(
        "apple apricot banana cherry coconut date fig grape kiwi lemon lime mango melon nectarine "
        "papaya peach pear plum quince raspberry".split()
    ),
    "drink": tuple(
        "ale beer brandy cider cocoa coffee cola gin juice lemonade mead milk rum sherry tea tonic "
        "vodka water whisky wine".split()
    ),
    "pet": tuple(
        "badger canary cat dog ferret frog gecko goat goldfish hamster hedgehog lizard mouse "
        "parrot pony rabbit rat snake spider turtle".split()
    ),
    "game": tuple(
        "badminton baseball basketball billiards boules bowls chess cricket croquet curling darts "
        "dominoes football golf handball hockey polo rugby squash tennis".split()
    ),
    "instrument": tuple(
        "accordion banjo bassoon cello clarinet drum fiddle flute guitar harp harpsichord horn "
        "lute oboe organ piano sitar trombone trumpet viola".split()
    ),
    "language": tuple(
        "arabic basque czech danish dutch english finnish french german greek hindi italian korean "
        "latin norwegian polish russian spanish swedish turkish".split()
    ),
    "flower": tuple(
        "aster begonia carnation crocus daffodil daisy fuchsia geranium heather hyacinth jasmine "
        "lavender lupin marigold orchid pansy peony poppy tulip violet".split()
    ),
}
# What new people are said to have where every second word is one person's alone; nobody asks.
PASSING = "number"
NUMBERS = tuple("one two three four five six seven eight nine ten".split())
# For worlds in which no two people share a second word.
MANY_FAMILY = (
    *FAMILY,
    *(
        "acker adair ahern alder allen ambler ames anders archer arden ashby atwood avery axton "
        "bacon bailey bain baird baldwin ballard banks barker barlow barr bartlett barton bates "
        "baxter beck becker bender bennett benson birch bishop blair bloom bolton bond booth "
        "bowen boyd bradley brady bragg brennan briggs bristow burns burton byrne caine calvert "
        "cameron campbell carey carlson carr carroll carson casey castro chandler chase clayton "
        "clement cobb cohen coleman collins conley connor conrad conway cooper corbett cowan "
        "craig crane crawford crosby cruz curtis dalton daly daniels davis dawson decker denton "
        "doyle draper duffy duncan dunn dwyer eaton emerson farrell fenton ferris field finch "
        "fisher fleming fletcher flood foley fowler fraser freeman fuller gallagher gates gibbs "
        "gibson gilbert glenn goodman gordon graham grant greer griffin grimes hagen haley "
        "hamilton hammond hardy harmon harris harvey haynes heath hendricks henson herman hess "
        "hewitt higgins hobbs hodge hogan holden holland holt hood hooper hopkins horton "
        "houston howell hubbard hughes hurst irwin jacobs jarvis jenkins joyce kane keith kemp "
        "kendrick kerr kirby knox kramer lamb lambert larson lawson leach lester lindsey lloyd "
        "logan lowery lucas lynch lyons mackay malone mann marks massey mathis maxwell mccoy "
        "mcgee mckay mclean meadows mercer miles mooney moran morrow mullen murphy nash nolan "
        "norris oakley ogden orr osborn parrish patton payne pearce perkins pike porter potter "
        "powell pratt quigley ramsey rankin"
    ).split(),
)


@dataclass(frozen=True)
class Wording:
    """An order of words: {x} is a name, or a person described; {r} a relation, {s} an attribute.

    A statement is ``person`` or ``attribute``, the copula, and the value; a question is ``who`` or
    ``which``, the mark, and the answer. Copula and mark may be empty."""

    person: str  # x's r
    attribute: str  # x's s
    copula: str
    who: str  # asks for x's r, of {person}
    which: str  # asks for x's s
    mark: str
    turn: str  # the word of a chain's second sentence after which hop 2 is needed
    think: str = "? think :"

    @property
    def has_statements(self) -> bool:
        """Whether a statement is another text than the question with its answer."""
        return (self.person, self.copula) != (self.who.format(person=self.person), self.mark)

    def words(self) -> list[str]:
        """Its fixed words."""
        asked = (self.who, self.which, self.mark, self.think)
        parts = (self.person, self.attribute, self.copula, *asked, ". answer :")
        return [word for part in parts for word in part.split() if "{" not in word]


WORDINGS: Mapping[str, Wording] = {
    "question": Wording(
        person="the {r} of {x}",
        attribute="the {s} of {x}",
        copula="is",
        who="who is {person}",
        which="which {s} has {x}",
        mark="?",
        turn="is",
    ),
    "possessive": Wording(
        person="{x} 's {r}",
        attribute="{x} 's {s}",
        copula="",
        who="{person}",
        which="{x} 's {s}",
        mark="",
        turn="'s",
    ),
}


@dataclass(frozen=True)
class Lexicon:
    """The words of a world. No word stands for two things.

    ``values`` are those of each attribute. A person's name is a word of ``given`` and one of
    ``family``, or of ``many_family`` where no two people share their second word."""

    relations: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    wordings: Mapping[str, Wording]
    given: tuple[str, ...] = GIVEN
    family: tuple[str, ...] = FAMILY
    many_family: tuple[str, ...] = MANY_FAMILY

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self.values)


EVERYDAY = Lexicon(RELATIONS, VALUES, WORDINGS)


@dataclass(frozen=True)
class Question(world.Question):
    """The scorer must also know the bridge, where there is one, and the answer that relabelled
    facts would give, where they would give another one."""

    bridge: str | None = None
    relabelled: str | None = None


@dataclass(frozen=True)
class Chain:
    """``a``'s ``r`` is ``b``, and ``b``'s ``s`` is ``c``: two facts, and the questions about them.
    In relabelled facts ``b``'s ``s`` is ``other``."""

    a: str
    r: str
    b: str
    s: str
    c: str
    wording: Wording = field(repr=False, compare=False)
    other: str | None = None

    @property
    def described(self) -> str:
        """B as the first hop describes it: "the boss of ada hill"."""
        return self.wording.person.format(r=self.r, x=self.a)

    @property
    def asks(self) -> str:
        """The two-hop question, without its mark."""
        return self.wording.which.format(s=self.s, x=self.described)

    @property
    def first(self) -> Text:
        """The statement of hop 1."""
        return Text(f"{self.described} {self.wording.copula}".strip(), f"{self.b} .")

    @property
    def second(self) -> Text:
        """The statement of hop 2."""
        subject = self.wording.attribute.format(s=self.s, x=self.b)
        return Text(f"{subject} {self.wording.copula}".strip(), f"{self.c} .")

    def question(self, form: str) -> Question:
        words, value = self.wording, f"{self.c} ."
        if form == "hop1":
            prompt = f"{words.who.format(person=self.described)} {words.mark}".strip()
            return Question(form, prompt, f"{self.b} .", self.b)
        if form == "hop2":
            prompt = f"{words.which.format(s=self.s, x=self.b)} {words.mark}".strip()
            return Question(form, prompt, value, self.c, None, self.other)
        if form == "direct":
            prompt = f"{self.asks} {words.mark}".strip()
            return Question(form, prompt, value, self.c, self.b, self.other)
        chain = f"{self.first} {self.second} answer : {value}"
        return Question(form, f"{self.asks} {words.think}", chain, self.c, self.b, self.other)
