"""The claims that can be proved: one file a theme, each with its statements and its checks.

`theory/catalogue.py` lists the themes in reading order. A file may use the helpers of the themes
before it; `CLAIMS` at its end is what it claims.
"""
