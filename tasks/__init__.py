"""Seeded synthetic worlds: texts for models to read, questions to ask, and scorers of answers."""

from tasks.composition import Composition, CompositionConfig
from tasks.english import English, EnglishConfig
from tasks.gsm_english import GsmEnglish, GsmEnglishConfig
from tasks.history import History
from tasks.languages import Languages, LanguagesConfig
from tasks.operations import Operations, OperationsConfig
from tasks.two_hop import TwoHop, TwoHopConfig
from tasks.word_math import WordMath
from tasks.word_problem import WordMathConfig
from tasks.world import Leak, Phase, Question, Split, Text, World, named

__all__ = [
    "Composition",
    "CompositionConfig",
    "English",
    "EnglishConfig",
    "GsmEnglish",
    "GsmEnglishConfig",
    "History",
    "Languages",
    "LanguagesConfig",
    "Leak",
    "Operations",
    "OperationsConfig",
    "Phase",
    "Question",
    "Split",
    "Text",
    "TwoHop",
    "TwoHopConfig",
    "WordMath",
    "WordMathConfig",
    "World",
    "named",
]
