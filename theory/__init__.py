"""The claims that can be proved, checked in float64.

`python -m theory` checks every one of them and exits 0 only when all hold. Read `claim.py` for what
a claim is, `one_layer.py` for the paper's model, and one file per idea beyond that; `catalogue.py`
lists them in reading order.

Main source: Chen, Hoang, Hahn, Sarfraz, "Position: Pause Recycling LoRAs ...", arXiv 2506.13479.
"""
