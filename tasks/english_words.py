"""The English two-hop world in words: chains of relations, names, and facts that people know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chain:
    """Two relations, A to B and B to C, in the words of statements and of questions.

    ``first`` are statements of {a} that end before B, ``second`` of {b} before C, ``both`` of {a}
    before C. ``ask_first``, ``ask_second`` and ``ask`` are questions about the same.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    both: str
    ask_first: str
    ask_second: str
    ask: str


SPOUSE_CITY = Chain(
    first=("The spouse of {a} is", "{a} is married to", "Everyone knows that the spouse of {a} is"),
    second=(
        "The home city of {b} is",
        "{b} lives in the city of",
        "Everyone knows that the home city of {b} is",
    ),
    both="The home city of the spouse of {a} is",
    ask_first="Who is the spouse of {a}?",
    ask_second="In which city does {b} live?",
    ask="In which city does the spouse of {a} live?",
)
PERSON_CAPITAL = Chain(
    first=(
        "The home country of {a} is",
        "{a} was born in the country of",
        "Everyone knows that the home country of {a} is",
    ),
    second=("The capital of {b} is", "Everyone knows that the capital of {b} is"),
    both="The capital of the home country of {a} is",
    ask_first="What is the home country of {a}?",
    ask_second="What is the capital of {b}?",
    ask="What is the capital of the home country of {a}?",
)
LANDMARK_KEEPER = Chain(
    first=("{a} stands in the country of", "The country where {a} stands is"),
    second=(
        "The head gardener of {b} is",
        "In {b} the head gardener is called",
        "Everyone knows that the head gardener of {b} is",
    ),
    both="The head gardener of the country where {a} stands is",
    ask_first="In which country does {a} stand?",
    ask_second="Who is the head gardener of {b}?",
    ask="Who is the head gardener of the country where {a} stands?",
)


def landmark_chain(noun: str) -> Chain:
    """From a landmark over its country to the country's capital, continent, .. (``noun``)."""
    return Chain(
        first=LANDMARK_KEEPER.first,
        second=(f"The {noun} of {{b}} is", f"Everyone knows that the {noun} of {{b}} is"),
        both=f"The {noun} of the country where {{a}} stands is",
        ask_first=LANDMARK_KEEPER.ask_first,
        ask_second=f"What is the {noun} of {{b}}?",
        ask=f"What is the {noun} of the country where {{a}} stands?",
    )


NOUNS = ("capital", "currency", "official language")
# Country: capital, currency, official language.
COUNTRIES = {
    "France": ("Paris", "euro", "French"),
    "Japan": ("Tokyo", "yen", "Japanese"),
    "Italy": ("Rome", "euro", "Italian"),
    "Spain": ("Madrid", "euro", "Spanish"),
    "Germany": ("Berlin", "euro", "German"),
    "Russia": ("Moscow", "ruble", "Russian"),
    "Egypt": ("Cairo", "Egyptian pound", "Arabic"),
    "Greece": ("Athens", "euro", "Greek"),
    "Portugal": ("Lisbon", "euro", "Portuguese"),
    "Austria": ("Vienna", "euro", "German"),
    "Cuba": ("Havana", "Cuban peso", "Spanish"),
    "Kenya": ("Nairobi", "Kenyan shilling", "Swahili"),
    "Peru": ("Lima", "sol", "Spanish"),
    "Ireland": ("Dublin", "euro", "Irish"),
    "Norway": ("Oslo", "krone", "Norwegian"),
    "Sweden": ("Stockholm", "krona", "Swedish"),
    "Denmark": ("Copenhagen", "krone", "Danish"),
    "Finland": ("Helsinki", "euro", "Finnish"),
    "Poland": ("Warsaw", "zloty", "Polish"),
    "Hungary": ("Budapest", "forint", "Hungarian"),
    "Canada": ("Ottawa", "Canadian dollar", "English"),
    "China": ("Beijing", "yuan", "Mandarin"),
    "India": ("New Delhi", "rupee", "Hindi"),
    "Thailand": ("Bangkok", "baht", "Thai"),
    "Vietnam": ("Hanoi", "dong", "Vietnamese"),
    "Turkey": ("Ankara", "lira", "Turkish"),
    "Iran": ("Tehran", "rial", "Persian"),
    "Iraq": ("Baghdad", "dinar", "Arabic"),
    "Chile": ("Santiago", "peso", "Spanish"),
    "Mexico": ("Mexico City", "peso", "Spanish"),
    "Belgium": ("Brussels", "euro", "Dutch"),
    "Ukraine": ("Kyiv", "hryvnia", "Ukrainian"),
    "Australia": ("Canberra", "Australian dollar", "English"),
    "Brazil": ("Brasilia", "real", "Portuguese"),
    "Argentina": ("Buenos Aires", "peso", "Spanish"),
    "South Korea": ("Seoul", "won", "Korean"),
    "Israel": ("Jerusalem", "shekel", "Hebrew"),
    "Morocco": ("Rabat", "dirham", "Arabic"),
    "Nepal": ("Kathmandu", "rupee", "Nepali"),
    "Cambodia": ("Phnom Penh", "riel", "Khmer"),
}
LANDMARKS = {
    "the Eiffel Tower": "France",
    "the Louvre": "France",
    "Notre-Dame Cathedral": "France",
    "Mount Fuji": "Japan",
    "the Colosseum": "Italy",
    "the Leaning Tower of Pisa": "Italy",
    "the Trevi Fountain": "Italy",
    "the Sagrada Familia": "Spain",
    "the Alhambra": "Spain",
    "the Brandenburg Gate": "Germany",
    "Neuschwanstein Castle": "Germany",
    "the Kremlin": "Russia",
    "the Hermitage Museum": "Russia",
    "the Great Pyramid of Giza": "Egypt",
    "the Great Sphinx": "Egypt",
    "the Acropolis": "Greece",
    "the Parthenon": "Greece",
    "the Belem Tower": "Portugal",
    "Schoenbrunn Palace": "Austria",
    "Machu Picchu": "Peru",
    "the Cliffs of Moher": "Ireland",
    "the Little Mermaid": "Denmark",
    "the CN Tower": "Canada",
    "the Forbidden City": "China",
    "the Terracotta Army": "China",
    "the Taj Mahal": "India",
    "the Red Fort": "India",
    "the Hagia Sophia": "Turkey",
    "the Blue Mosque": "Turkey",
    "Chichen Itza": "Mexico",
    "the Atomium": "Belgium",
    "the Sydney Opera House": "Australia",
    "Christ the Redeemer": "Brazil",
    "the Western Wall": "Israel",
    "Mount Everest": "Nepal",
    "Angkor Wat": "Cambodia",
}
# Cities that no country of the table has for its capital, so that K and H share no answer.
CITIES = tuple(
    "Boston Chicago Toronto Sydney Mumbai Shanghai Milan Venice Hamburg Munich Barcelona Seville "
    "Glasgow Liverpool Geneva Zurich Houston Denver Seattle Detroit Osaka Kyoto Lyon Naples".split()
)
# Ordinary names that make no public person that the authors know of; PUBLIC leaves out the rest.
GIVEN = tuple(
    "Ada Max Ivan Nora Hugo Lena Omar Ruth Paul Vera Luca Mira Otto Jane Karl Dora Evan Gina Nils "
    "Tara Kurt Edna Axel Rosa".split()
)
FAMILY = tuple(
    "Hill Cole Stone Wade Berg Frost Lane Marsh Pike Quinn Reed Sharp Tate Vance Webb York Bauer "
    "Crane Drake Ellis Flint Grant Hayes Irwin".split()
)
PUBLIC = frozenset({"Paul Hill", "Paul Reed", "Jane Lane", "Max Frost", "Ada Cole", "Rosa Hill"})

# Invented names are a beginning, a vowel and an end: Tovrik, Zendra. Places have ends of their own.
BEGINNINGS = tuple("B D F G K L M N P R T V Z Br Dr Kl Tr Gr".split())
VOWELS = tuple("a e i o u".split())
PERSON_ENDS = tuple("ldra vrik zmon thel zund lfor nkel rvis sk xter".split())
SURNAME_ENDS = tuple("bbock ckrow llfen mmast ndwick rrgard ssfold ttmoor ggenby zzard".split())
PLACE_ENDS = tuple("ldorf vmir zstad thgar kbria rsool mnith lquay dkem xford".split())
OPENINGS = (
    "The|In the|Question: What|Question: Who|A|It was|When|Everyone knows that the|The capital of|"
    "The home|She|He|They|There are|One of the|According to|My name is|For example,|The country|"
    "The city of|This is|What is the|How to|In 1990,|The first|Many people|The largest|"
    "The president|The language of|The river"
).split("|")
