"""A checkpoint that two processes hold together: each has half of it, and the same answers."""

import multiprocessing
import os
import socket
import sys

import pytest
import torch
from torch import distributed

from lora import Mix, Rows, attach, base_hash, detach, extract, init_adapter, train_only, using
from models import Tokenizer, greedy, load_checkpoint
from models.causal import CausalLM
from models.families import read_config
from recycle.measure.interaction import interaction_and_rounding
from recycle.run.disk import may_write, write_text, writing
from recycle.run.processes import Lost, processes
from recycle.studies import Study
from recycle.studies.two_hop import TWO_HOP
from recycle.study import run
from recycle.train.fit import completion_loss
from recycle.train.settings import assignments, change

VALUES = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not distributed.is_available(), reason="processes are forked"
)


class Files:
    """A checkpoint of random weights that needs no file."""

    where = "tiny/config.json"

    def __init__(self, words):
        self._words = words
        self._tokenizer = Tokenizer.from_words(words)
        object.__setattr__(self._tokenizer, "highest", len(self._tokenizer) - 1)
        self.config = {**VALUES, "vocab_size": len(self._tokenizer)}

    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self.tensors()}

    def tensors(self):
        g = torch.Generator().manual_seed(0)
        model = CausalLM(read_config(self.config, self.where)[0], len(self._tokenizer))
        for name, like in model.state_dict().items():
            drawn = torch.randn(like.shape, generator=g)
            yield name, 0.2 * drawn if like.dim() == 2 else 1 + 0.1 * drawn

    def tokenizer(self):
        return self._tokenizer


@pytest.fixture
def tiny(monkeypatch):
    """Let every checkpoint be random weights for these words."""

    def use(words):
        files = Files(words)
        monkeypatch.setattr("models.checkpoint.open_source", lambda source: files)
        return files

    return use


def in_step(what, said=None):
    """Do the same in two processes that form a group: their exit codes. What a process says when
    another is lost goes into the file ``said``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def act(rank):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"MASTER_PORT": port}
        try:
            with processes(in_step=True) as team, writing(rank == 0):
                what(team)
        except Lost as lost:
            said.write_text(str(lost))
            sys.exit(2)

    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=act, args=(rank,)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    return [process.exitcode for process in started]


def work():
    """What a study does with a checkpoint: ask it, train two adapters, ask it with both."""
    model, _ = load_checkpoint("tiny")
    tokens = torch.randint(2, 20, (4, 12), generator=torch.Generator().manual_seed(1))
    prompts = [row.tolist()[: 3 + i] for i, row in enumerate(tokens)]
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters())
    found = {"held": held, "base": base_hash(model), "said": greedy(model, prompts, 3, -1, 0)}
    fresh = {
        name: init_adapter(model, ["*q_proj", "*down_proj"], 4, 8.0, g)
        for name, g in (("a", torch.Generator().manual_seed(0)), ("b", torch.Generator()))
    }
    attach(model, fresh)
    with using(model, Rows(("a", "b"))):
        groups = train_only(model, ["a", "b"])
        optimizer = torch.optim.AdamW([p for group in groups for p in group], lr=1e-2)
        for _ in range(2):
            losses = completion_loss(model, tokens, torch.ones_like(tokens, dtype=torch.bool), 2)
            losses.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    found["losses"] = losses.tolist()
    trained = extract(model, "a", fresh["a"])
    found["update"] = [trained.delta(path) for path in sorted(trained.paths)]
    with using(model, Mix({"a": 1.0, "b": 0.5})):
        found["merged said"] = greedy(model, prompts, 3, -1, 0)
    both = extract(model, "a", fresh["a"]), extract(model, "b", fresh["b"])
    detach(model)
    found["interaction"] = torch.tensor(interaction_and_rounding(model, prompts, *both))
    with torch.no_grad():
        found["logits"] = model(tokens)
    return found


def test_each_process_holds_half_and_computes_the_same(tiny, tmp_path):
    tiny([f"w{i}" for i in range(30)])
    alone = work()
    assert in_step(lambda team: torch.save(work(), tmp_path / str(team.rank))) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        assert found.pop("held") == pytest.approx(alone["held"] / 2, rel=0.02)
        for name, value in found.items():
            if name in ("base", "said", "merged said"):
                assert value == alone[name]
            else:
                torch.testing.assert_close(value, alone[name], atol=1e-5, rtol=1e-5)


def test_what_fails_in_one_process_ends_both(tiny, tmp_path):
    """One is gone in the middle of what both compute; the other says so and does not hang."""
    tiny([f"w{i}" for i in range(30)])

    def fail(team):
        load_checkpoint("tiny")
        if team.rank == 1:
            os._exit(7)
        work()

    assert in_step(fail, said=tmp_path / "said") == [2, 7]
    line = (tmp_path / "said").read_text()
    assert "ended" in line and "start the same command again" in line and "\n" not in line


def test_who_may_not_write_writes_nothing(tmp_path):
    with writing(False):
        write_text(tmp_path / "file", "")
        assert not may_write()
    assert may_write() and not list(tmp_path.iterdir())


TINY = """
    groups=F parts=answers task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    train.steps=3 train.rows=4 adapter.rank=4
"""


@pytest.mark.slow
def test_a_study_in_step_gives_the_numbers_of_one_process(tiny, tmp_path, monkeypatch):
    config = change(TWO_HOP.default, assignments(TINY.split()))
    study = Study(TWO_HOP, config)
    object.__setattr__(study.config, "checkpoint", "tiny")
    tiny(study.world(0).words())
    monkeypatch.setattr("recycle.study.note_environment", lambda *_: None)
    monkeypatch.setattr("recycle.train.base.load_base", lambda *_: load_checkpoint(""))
    with processes() as team:
        run(study, tmp_path / "one", {}, team, quiet=True)
    assert in_step(lambda team: run(study, tmp_path / "two", {}, team, quiet=True)) == [0, 0]
    one, two = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two"))
    assert one == two
    assert not list((tmp_path / "two").glob("seed-*/*/made.1.jsonl"))
    assert (tmp_path / "two/seed-0/standard/preserved/answers.json").exists()
