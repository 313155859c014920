"""The composition world in other words: rulers, their rivals and heirs, and where they ruled.

    statement    the rival of aldric bold was ivo grim .       the seat of ivo grim was conwy .
    hop1         who was the rival of aldric bold ? ivo grim .
    hop2         which seat had ivo grim ? conwy .
    direct       which seat had the rival of aldric bold ? conwy .
    cot          which seat had the rival of aldric bold ? think : the rival of aldric bold was
                 ivo grim . the seat of ivo grim was conwy . answer : conwy .

In the possessive order: aldric bold 's rival ivo grim ; ivo grim 's seat conwy ; aldric bold 's
rival 's seat conwy. Seats, rivers, provinces, ports, battles, abbeys and mountains are real names;
who had which is drawn anew for each seed. A new world of this kind needs its own words and nothing
else.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.composition import Composition
from tasks.composition_words import WORDINGS, Lexicon

_GIVEN = tuple(
    "aldric anselm arnulf baldwin bertha berengar boris casimir clovis conrad cyrus darius edith "
    "edmund edwin egbert ermin fulk gerold godfrey gunther hakon harald hector hilda horik igor "
    "inga ivo judith kenneth kuno ladislas lothar magnus manfred matilda milan neville norbert "
    "odo olaf oleg orson osric otho pepin philip raymond rollo rurik sancho sigurd stefan sven "
    "tancred theobald ulric urban valdemar wenzel wulf xavier ysolde zoltan".split()
)
_FAMILY = tuple(
    "able ancient bald bare bearded bold brave bright broad calm careless cautious cruel cunning "
    "deaf devout dim dread eager elder fair false fat feared fierce firm fond fowler frank "
    "gallant gaunt gentle gloomy grand great grim hammer hardy holy hopeful humble idle ironside "
    "just keen kind lame lean lisp longsword loud mad meek merry mild proud quiet rash silent "
    "simple stern stout strong tall wise young".split()
)
_VALUES = {
    "seat": tuple(
        "alnwick arundel bamburgh berkeley bodiam caernarfon conwy corfe durham edinburgh "
        "framlingham harlech kenilworth leeds ludlow pembroke raglan rochester tintagel "
        "warwick".split()
    ),
    "river": tuple(
        "avon danube douro ebro elbe garonne loire marne meuse moselle oder rhine rhone seine "
        "severn tagus thames tiber trent vistula".split()
    ),
    "province": tuple(
        "alsace anjou aquitaine bavaria bohemia brabant brittany burgundy castile flanders "
        "galicia gascony lombardy moravia navarre normandy provence saxony silesia "
        "tuscany".split()
    ),
    "title": tuple(
        "baron captain chancellor constable count doge duke earl emir emperor king knight lord "
        "margrave marshal prince regent sultan tsar viscount".split()
    ),
    "port": tuple(
        "antwerp bergen bilbao bordeaux bremen cadiz calais danzig dubrovnik genoa hamburg lisbon "
        "lubeck marseille naples palermo riga rostock stockholm venice".split()
    ),
    "banner": tuple(
        "bear boar bull crane dolphin dragon eagle falcon griffin hare heron leopard lion otter "
        "pelican raven stag swan unicorn wolf".split()
    ),
    "battle": tuple(
        "agincourt bannockburn bosworth bouvines crecy evesham falkirk hastings legnano lewes "
        "mohacs najera nicopolis otterburn patay poitiers rosebeke tannenberg tewkesbury "
        "varna".split()
    ),
    "abbey": tuple(
        "bec citeaux clairvaux cluny corvey fontenay fulda glastonbury hirsau jumieges lorsch "
        "melk murbach reichenau rievaulx tintern vezelay waltham whitby zwettl".split()
    ),
    "mountain": tuple(
        "ararat brocken eiger etna hekla helvellyn jungfrau matterhorn nevis olympus pilatus rigi "
        "sinai snowdon stromboli teide triglav ventoux vesuvius zugspitze".split()
    ),
    "coin": tuple(
        "angel bezant denier dinar dirham drachma ducat ecu farthing florin groat guilder heller "
        "kreuzer mark penny shilling solidus stater thaler".split()
    ),
}
LEXICON = Lexicon(
    relations=tuple("rival heir ally vassal envoy tutor squire jailer patron herald".split()),
    values=_VALUES,
    wordings={
        "question": replace(
            WORDINGS["question"],
            copula="was",
            who="who was {person}",
            which="which {s} had {x}",
            turn="was",
        ),
        "possessive": WORDINGS["possessive"],
    },
    given=_GIVEN,
    family=_FAMILY,
    many_family=_FAMILY,
)


class History(Composition):
    """One seeded world of rulers. Composition explains its groups, texts and questions. Worlds with
    ``unique_family`` are smaller here: there are fewer second words."""

    name = "history"
    lexicon = LEXICON
