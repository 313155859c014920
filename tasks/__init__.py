"""Seeded synthetic worlds and their scorers: what models read, what they are asked, what is right."""

from tasks.composition import Composition, CompositionConfig
from tasks.history import History
from tasks.two_hop import TwoHop, TwoHopConfig
from tasks.word_math import WordMath
from tasks.word_problem import WordMathConfig
from tasks.world import Leak, Phase, Question, Text, World

__all__ = [
    "Composition",
    "CompositionConfig",
    "History",
    "Leak",
    "Phase",
    "Question",
    "Text",
    "TwoHop",
    "TwoHopConfig",
    "WordMath",
    "WordMathConfig",
    "World",
]
