"""Seeded synthetic problems and their scorers."""

from tasks.two_hop import TwoHop, TwoHopConfig

__all__ = ["TwoHop", "TwoHopConfig"]
