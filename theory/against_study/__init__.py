"""The one-layer theory against the transformer of a finished two-hop study.

`compare.py` makes the numbers from what `answers.py`, `overlaps.py` and `reasons.py` measure in the
trained model; `show.py` turns them into text, a table and a picture.
"""
