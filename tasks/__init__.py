"""Seeded synthetic problems and their scorers: what is read, what is asked, and which answers are right."""

from tasks.task import Expert, Library, Question, Task, Text
from tasks.two_hop import TwoHop, TwoHopConfig

TASKS: dict[str, type[Task]] = {TwoHop.name: TwoHop}

__all__ = ["TASKS", "Expert", "Library", "Question", "Task", "Text", "TwoHop", "TwoHopConfig"]
