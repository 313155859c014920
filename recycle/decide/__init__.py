"""Rows of counts, intervals, and the verdicts that rules give."""
