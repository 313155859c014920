"""The two-hop world in other words: rulers, their rivals, and the seats they ruled from.

    statement    the rival of aldric bold was ivo grim .       ivo grim ruled from dun keep .
    hop1         who was the rival of aldric bold ? answer : ivo grim .
    hop2         from where did ivo grim rule ? answer : dun keep .
    direct       from where did the rival of aldric bold rule ? answer : dun keep .
    cot          from where did the rival of aldric bold rule ? think : the rival of aldric bold was
                 ivo grim . the seat of ivo grim was dun keep . answer : dun keep .

A new world of this kind needs its own words and nothing else. It has the groups, the question types
and the scorer of the two-hop world, but other names and other lengths of text.
"""

from __future__ import annotations

from tasks.two_hop import TwoHop
from tasks.two_hop_words import Wording

_TWO_HOP = "from where did the rival of {a} rule ?"


class History(TwoHop):
    """One seeded world of rulers. TwoHop explains its groups, texts and questions."""

    name = "history"
    titles = {
        "F": "F: new rulers, new seats",
        "H": "H: new rulers, real seats",
        "R": "R: real rulers, real seats, new facts",
        "K": "K: real rulers, real seats, facts known to the base",
    }
    wording = Wording(
        prompts={
            "hop1": "who was the rival of {a} ? answer :",
            "hop2": "from where did {b} rule ? answer :",
            "direct": _TWO_HOP + " answer :",
            "cot": _TWO_HOP + " think :",
            "identity": "who was {b} ? answer :",
        },
        completions={
            "hop1": "{b} .",
            "hop2": "{c} .",
            "direct": "{c} .",
            "cot": "the rival of {a} was {b} . the seat of {b} was {c} . answer : {c} .",
            "identity": "{b} .",
        },
        other_chain="{a} made war on {b} . {b} ruled from {c} . answer : {c} .",
        statements={
            "first": ("the rival of {x} was", "{x} made war on"),
            "second": ("the seat of {x} was", "{x} ruled from"),
            "other": ("the title of {x} was", "{x} was born a"),
        },
        others=tuple(
            "baron bishop captain count duke earl emir emperor king knight lord prince "
            "regent sultan".split()
        ),
        given=tuple(
            "aldric anselm arnulf baldwin bertha berengar boris casimir clovis conrad "
            "cyrus darius edith edmund edwin egbert ermin fulk gerold godfrey gunther "
            "hakon harald hector hilda horik igor inga ivo judith kenneth kuno ladislas "
            "lothar magnus manfred matilda milan neville norbert odo olaf oleg orson "
            "osric otho pepin philip raymond rollo rurik sancho sigurd stefan sven "
            "tancred theobald ulric urban valdemar wenzel wulf xavier ysolde zoltan".split()
        ),
        family=tuple(
            "able ancient bald bare bearded bold brave bright broad calm careless "
            "cautious cruel cunning deaf devout dim dread eager elder fair false fat "
            "feared fierce firm fond fowler frank gallant gaunt gentle gloomy grand great "
            "grim hammer hardy holy hopeful humble idle ironside just keen kind lame lean "
            "lion lisp longsword loud mad meek merry mild noble pious proud quiet rash "
            "silent simple stern stout strong tall wise young".split()
        ),
        place=tuple(
            "alt ber dal dor dun east elm far glen grey hal high kings lang low mar new "
            "north old ox red salt".split()
        ),
        town=tuple(
            "abbey bridge burg castle cross fell ford gate hall haven hill keep market "
            "minster moat rock stone tower wall wick".split()
        ),
    )
