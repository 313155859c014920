"""The claims about LoRA that can be proved, checked in float64: `python -m theory`.

Read `claim.py` for what a claim is, `one_layer.py` for the paper's model, then `claims/`, which has
one file a theme; `catalogue.py` lists the themes in reading order. `against_study/` compares the
theory with a trained transformer.

Main source: Chen, Hoang, Hahn, Sarfraz, "Position: Pause Recycling LoRAs ...", arXiv 2506.13479.
"""
