"""Saving loses nothing: neither the old adapter, nor other files, nor what a link names."""

import builtins
import os
import shutil
from contextlib import suppress

import pytest
import torch

import lora.files
from lora import Adapter, AdapterFileError, load_adapter, save_adapter
from lora.folder import WEIGHTS, find, replace_files

OLD, NEW = (
    Adapter({"q": (torch.full((r, 3), v), torch.ones(4, r))}, alpha)
    for r, v, alpha in ((1, 1.0, 2.0), (2, 5.0, 9.0))
)


def names(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def same(one, other):
    return torch.equal(one.delta("q"), other.delta("q")) and one.alpha == other.alpha


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("notes.txt", "checkpoints/step-100.pt"):
        (tmp_path / name).write_text("three days of work")
    before = names(tmp_path)
    for one in (OLD, NEW):
        save_adapter(one, tmp_path)
        assert same(load_adapter(tmp_path), one)
    weights = WEIGHTS[lora.files.safetensors is None]
    assert names(tmp_path) == before | {"adapter_config.json", "origin.json", weights}
    assert (tmp_path / "checkpoints/step-100.pt").read_text() == "three days of work"


class Killed(BaseException):
    """The process dies: nothing is caught, and nothing cleaned up."""


OPERATIONS = [(os, name) for name in ("mkdir", "fsync", "rename", "replace", "rmdir", "unlink")]
OPERATIONS.append((builtins, "open"))


def fail_at(step, error, patch):
    """Let the operation on the disk number ``step`` fail. Returns a function: did one fail?"""
    done = 0

    def failing(real):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == step + 1:
                raise error
            return real(*args, **kwargs)

        return call

    for module, name in OPERATIONS:
        patch.setattr(module, name, failing(getattr(module, name)))
    return lambda: done > step


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_save_leaves_the_old_adapter_or_the_new_one(
    tmp_path, monkeypatch, there, dies
):
    step, failed = 0, True
    while failed:
        home = tmp_path / f"{step}"
        home.mkdir()
        if there:
            save_adapter(OLD, home / "a")
        before = names(home)
        with monkeypatch.context() as patch, suppress(Killed, OSError):
            if dies:
                patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
            failed_yet = fail_at(step, Killed() if dies else OSError(28, "disk full"), patch)
            save_adapter(NEW, home / "a")
        failed = failed_yet()
        if there or (home / "a").exists():
            back = load_adapter(home / "a")
            is_old = there and same(back, OLD)
            assert is_old or same(back, NEW)
        if not dies and (is_old if there else not (home / "a").exists()):
            assert names(home) == before  # nothing stays behind
        save_adapter(NEW, home / "a")
        assert same(load_adapter(home / "a"), NEW)
        assert dies or not any(".sav" in name for name in names(home))
        step += 1
    assert step > 8


def test_what_a_process_left_that_died_is_removed_by_a_later_save(tmp_path):
    old, young = (tmp_path / f".saving-{digit * 16}" for digit in "0a")
    other = tmp_path / ".saving-of-mine"
    for folder in (old, young, other):
        folder.mkdir()
        os.utime(folder, (0, 0) if folder != young else None)
    save_adapter(NEW, tmp_path / "a")
    assert names(tmp_path) >= {young.name, other.name, "a"} and not old.exists()


def test_weights_of_the_other_format_do_not_stay_beside_new_ones(tmp_path):
    safe, plain = WEIGHTS
    replace_files(tmp_path / "a", {safe: b"old", "adapter_config.json": b"old"})
    replace_files(tmp_path / "a", {plain: b"new", "adapter_config.json": b"new"})
    assert names(tmp_path / "a") == {plain, "adapter_config.json"}
    assert find(tmp_path / "a", safe, plain).read_bytes() == b"new"


def test_links_are_not_followed_and_other_things_not_replaced(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("outside")
    (tmp_path / "dangling").symlink_to("nowhere")
    for place, message in (
        ("link", "is a link to outside: name the folder itself"),
        ("dangling", "is a link to nowhere"),
        ("file", "is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            save_adapter(NEW, tmp_path / place)
    with pytest.raises(ValueError, match="/dev/null is there and is no folder"):
        save_adapter(NEW, "/dev/null")
    (tmp_path / "a").mkdir()
    for name in ("adapter_config.json", *WEIGHTS, ".saved"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="saved"):
        save_adapter(NEW, tmp_path / "a")
    (tmp_path / "a" / ".saved").unlink()
    save_adapter(NEW, tmp_path / "a")
    assert (tmp_path / "file").read_text() == "mine" and not names(tmp_path / "outside")
    assert not (tmp_path / "a" / "adapter_config.json").is_symlink()
    (tmp_path / "b" / "origin.json").mkdir(parents=True)
    with pytest.raises(ValueError, match="origin.json is a folder where a file belongs"):
        save_adapter(NEW, tmp_path / "b")


@pytest.mark.parametrize(
    "adapter, message",
    [
        (Adapter({"q": (torch.full((1, 2), torch.nan), torch.ones(2, 1))}, 1.0), "'q' holds NaN"),
        (Adapter({"q": (torch.full((1, 2), 3e38), torch.ones(2, 1))}, 9.0), "no training gives"),
        (1e38 * Adapter({"q": (torch.ones(1, 2), torch.full((2, 1), 99.0))}, 1.0), "infinity"),
        (Adapter({"../x": OLD.factors["q"]}, 1.0), "'../x' cannot be the name of a layer"),
        (Adapter({"a\nb": OLD.factors["q"]}, 1.0), "cannot be the name"),
        (Adapter(OLD.factors, 1.0, origin={"x": torch.ones(1)}), "cannot be written as JSON"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(tmp_path, adapter, message):
    save_adapter(OLD, tmp_path / "a")
    with pytest.raises(AdapterFileError, match=message) as refused:
        save_adapter(adapter, tmp_path / "a")
    assert str(refused.value).isprintable()
    assert same(load_adapter(tmp_path / "a"), OLD) and len(names(tmp_path)) == 4


def test_shared_and_strided_factors_are_saved_as_what_they_are(tmp_path):
    """One A in two layers, and a few rows of a large matrix: the file holds the rows alone."""
    big = torch.randn(100_000, 3)
    one = Adapter({"q": (big[:2], torch.randn(2, 4).mT), "k": (big[:2], torch.ones(4, 2))}, 1.0)
    save_adapter(one, tmp_path / "a")
    back = load_adapter(tmp_path / "a")
    assert all(torch.equal(back.delta(path), one.delta(path)) for path in one.paths)
    assert sum(file.stat().st_size for file in (tmp_path / "a").iterdir()) < 10_000
