"""Seeded synthetic problems and their scorers: what is read, what is asked, and which answers are
right."""

from tasks.history import History
from tasks.task import Expert, Library, Question, Task, Text
from tasks.two_hop import TwoHop, TwoHopConfig
from tasks.word_math import WordMath
from tasks.word_problem import WordMathConfig

TASKS: dict[str, type[Task]] = {world.name: world for world in (TwoHop, WordMath, History)}

__all__ = [
    "TASKS",
    "Expert",
    "History",
    "Library",
    "Question",
    "Task",
    "Text",
    "TwoHop",
    "TwoHopConfig",
    "WordMath",
    "WordMathConfig",
]
