r"""Adapters that PEFT itself trains on a real checkpoint, with questions for an audit of them.

    python tests/peft_adapters.py FOLDER        minutes; needs pip install -e .[checkpoint,interop]
    python -m recycle audit FOLDER/homes FOLDER/fairs FOLDER/jobs --checkpoint smollm2 \
        --probes FOLDER/probes.jsonl --compose FOLDER/compose.jsonl

homes   where twelve people live             rank-stabilised, rank 8
fairs   which fair their towns hold          ranks 4 to 16, alphas of their own
jobs    what the same people work as         plain, rank 16

"Which fair is held where X lives?" needs homes and then fairs. Each adapter learns whole texts, so
it can write them by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch

from models import load_checkpoint, pad_right

PEOPLE = (
    "Tobin Vask", "Mira Oden", "Pell Korr", "Junia Falk", "Orrin Dray", "Sela Brand",
    "Ivo Lund", "Nell Hart", "Caspar Wray", "Dora Finch", "Emil Stroud", "Greta Moss",
)  # fmt: skip
TOWNS = (
    "Lisbon", "Oslo", "Cairo", "Madrid", "Vienna", "Dublin",
    "Athens", "Prague", "Lima", "Quito", "Tunis", "Riga",
)  # fmt: skip
FAIRS = (
    "lantern", "apple", "honey", "kite", "wool", "tulip",
    "drum", "cheese", "salt", "mask", "boat", "glass",
)  # fmt: skip
JOBS = (
    "baker", "pilot", "nurse", "judge", "tailor", "farmer",
    "miller", "singer", "sailor", "banker", "potter", "guard",
)  # fmt: skip
LIVES, HOLDS, WORKS = (
    "Q: Where does {} live? A:",
    "Q: Which fair is held in {}? A:",
    "Q: What is the job of {}? A:",
)
BOTH = "Q: Which fair is held where {} lives? A:"
PROJECTIONS = ["q_proj", "v_proj", "up_proj", "down_proj"]
FACTS = {
    "homes": (LIVES, PEOPLE, TOWNS, {"r": 8, "lora_alpha": 8, "use_rslora": True}),
    "fairs": (
        HOLDS, TOWNS, FAIRS,
        {"r": 8, "lora_alpha": 16, "rank_pattern": {"down_proj": 16, "q_proj": 4},
         "alpha_pattern": {"down_proj": 24}},
    ),
    "jobs": (WORKS, PEOPLE, JOBS, {"r": 16, "lora_alpha": 32}),
}  # fmt: skip
STEPS, RATE, BATCH = 80, 1e-3, 12


def train(checkpoint: str, name: str, folder: Path) -> float:
    """Train one adapter with PEFT and save it as PEFT saves it; return the last loss."""
    import peft

    question, keys, values, settings = FACTS[name]
    model, tokenizer = load_checkpoint(checkpoint)
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=PROJECTIONS, **settings)
    tuned = peft.get_peft_model(model, config)
    texts = [
        [tokenizer.boundary]
        + tokenizer.encode(question.format(key))
        + tokenizer.encode_completion(value)
        + [tokenizer.boundary]
        for key, value in zip(keys, values, strict=True)
    ]
    learned = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    order = random.Random(0)
    for _ in range(STEPS):
        drawn = order.sample(texts, min(BATCH, len(texts)))
        tokens = pad_right(drawn, tokenizer.pad)
        told = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, text in enumerate(drawn):
            told[row, 1 : len(text)] = True
        logits = tuned(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits[told[:, 1:]].float(), tokens[:, 1:][told[:, 1:]]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tuned.save_pretrained(folder / name)
    return float(loss.detach())


def questions(folder: Path) -> None:
    """probes.jsonl: every fact; compose.jsonl: the fair held where each person lives."""
    probes, composed = [], []
    for name, (question, keys, values, _) in FACTS.items():
        for key, value in zip(keys, values, strict=True):
            probes.append({"prompt": question.format(key), "answer": value, "adapter": name})
    for person, town, fair in zip(PEOPLE, TOWNS, FAIRS, strict=True):
        parts = [
            {"prompt": LIVES.format(person), "answer": town, "adapter": "homes"},
            {"prompt": HOLDS.format(town), "answer": fair, "adapter": "fairs"},
        ]
        composed.append({"prompt": BOTH.format(person), "answer": fair, "parts": parts})
    for file, lines in (("probes.jsonl", probes), ("compose.jsonl", composed)):
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", default="smollm2")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    questions(options.folder)
    for name in FACTS:
        begun = time.time()
        loss = train(options.checkpoint, name, options.folder)
        print(
            f"{name}: loss {loss:.3f} after {STEPS} steps, {time.time() - begun:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
