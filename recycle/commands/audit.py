"""``python -m recycle audit``: what it reads, what it refuses, and where it writes."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora import Adapter, load_adapter, save_adapter
from models import Model, Vocabulary
from recycle.audit.candidates import TRIED, candidates
from recycle.audit.collect import probes_read
from recycle.audit.inputs import Probe, Reader, check_place, prompts_read, short_names
from recycle.audit.run import audit as run_audit
from recycle.audit.soundness import check_one_base, plain, relative_error
from recycle.commands.adapters import each_once, library_of, open_named
from recycle.run import progress
from recycle.run.device import choose_device
from recycle.run.disk import read_json, write_json, write_text
from recycle.run.matmul import choose_matmul
from recycle.run.names import inside, listing
from recycle.show.audit_page import audit_page, audit_text
from recycle.train.base import load_base


@dataclass(frozen=True)
class Brought:
    """The base, and the adapters by short name with their folders. ``names`` are {as given: short
    name}, ``read`` prompts that a run's record says an adapter has read, ``questions`` those of
    the run that it can be probed with. Nothing is written into the folders of ``base_folders``.
    ``toy``: a study here pretrained the base."""

    model: Model
    tokenizer: Vocabulary
    names: Mapping[str, str]
    adapters: Mapping[str, Adapter]
    folders: Mapping[str, Path]
    base_folders: Sequence[Path] = ()
    read: Mapping[str, Sequence[str]] = field(default_factory=dict)
    questions: Sequence[Probe] = ()
    toy: bool = False


def audit(options: Namespace) -> None:
    """Everything is read, and every place is checked, before any work begins."""
    methods = candidates(options.methods or TRIED)
    if options.run_probes and (options.run is None or options.probes is not None):
        raise ValueError(
            "--run-probes asks a run's own questions: give it --run, and no --probes beside it"
        )
    brought = _from_run(options) if options.run is not None else _on_checkpoint(options)
    adapters, theirs = brought.adapters, [*brought.base_folders, *brought.folders.values()]
    out = check_place(options.out or _usual_place(adapters), "--out", theirs)
    _check_earlier(out, brought)
    check_one_base(brought.model, adapters)
    reader = Reader(brought.model, brought.tokenizer, brought.names)
    probes = reader.probes(options.probes) if options.probes else []
    if options.run_probes:
        probes = _run_probes(brought)
    composed = reader.composed(options.compose) if options.compose else []
    if len(adapters) < 2 and (probes or composed):
        raise ValueError("--probes and --compose ask merges: name two adapters or more")
    copies = _copies(options.repair, brought, theirs) if options.repair else {}
    with progress.showing(3 + len(methods), options.quiet):
        report = run_audit(
            brought.model,
            brought.tokenizer,
            adapters,
            brought.folders,
            methods,
            probes,
            composed,
            options.seed or 0,
            brought.read,
            brought.toy,
        )
    report["base_name"] = str(options.checkpoint or options.run)
    report["copies"] = [
        {"adapter": name, "folder": str(place), "error": relative_error(copy, adapters[name])}
        for name, (place, copy) in copies.items()
    ]
    for place, copy in copies.values():
        save_adapter(copy, place)
    write_json(out / "audit.json", report)
    write_text(out / "report.html", audit_page(report))
    for made in report["copies"]:
        print(f"plain copy: {made['folder']}, relative error {made['error']:.1e}")
    print(f"report: {out / 'report.html'}\n\n{audit_text(report)}")


def _run_probes(brought: Brought) -> list[Probe]:
    if not brought.questions:
        raise ValueError(
            f"--run-probes: the run asks nothing that {listing(brought.adapters, most=4)} are "
            "recorded to have read: write your own into --probes FILE"
        )
    return list(brought.questions)


def _usual_place(adapters: Mapping[str, Adapter]) -> Path:
    names = listing([re.sub(r"[^\w.+-]+", "-", name) for name in adapters], most=4)
    return Path("runs") / f"audit-{names.replace(', ', '+').replace(' ', '-')[:80]}"


def _check_earlier(out: Path, brought: Brought) -> None:
    """Raises ValueError where the place holds an audit of other adapters, or another report."""
    remedy = "choose another --out"
    if not (out / "audit.json").exists():
        if (out / "report.html").exists():
            raise ValueError(f"{out / 'report.html'} is of no audit: {remedy}")
        return
    shape = {"adapters": [{"adapter": str, "folder": str}]}
    earlier = read_json(out / "audit.json", shape, remedy)["adapters"]
    there = {Path(each["folder"]).resolve() for each in earlier}
    if there != {folder.resolve() for folder in brought.folders.values()}:
        names = listing([each["folder"] for each in earlier], most=4)
        raise ValueError(f"{out} holds the audit of {names}: {remedy}")


def _copies(
    place: Path, brought: Brought, theirs: Sequence[Path]
) -> dict[str, tuple[Path, Adapter]]:
    """{name: (a new folder, a plain copy of the adapter)}."""
    check_place(place, "--repair", theirs)
    copies = {
        name: (inside(place, brought.folders[name].resolve().name, "--repair"), plain(adapter))
        for name, adapter in brought.adapters.items()
    }
    if len({folder for folder, _ in copies.values()}) < len(copies):
        raise ValueError("--repair: two adapters have one folder name: repair them one by one")
    return copies


def _from_run(options: Namespace) -> Brought:
    """A base of a finished study; adapters out of its library or of other folders."""
    options.base = options.base or "standard"
    base = open_named(options)
    given = each_once(base, options.adapters)
    names = short_names(list(given), library_of(base))
    own = {name: library_of(base) / name for name in given}
    return Brought(
        base.model,
        base.tokenizer,
        names,
        {names[name]: adapter for name, adapter in given.items()},
        {names[name]: own[name] if own[name].is_dir() else Path(name) for name in given},
        [options.run],
        {names[name]: prompts_read(base.world, adapter) for name, adapter in given.items()},
        [
            probe
            for name, adapter in given.items()
            for probe in probes_read(base.world, names[name], adapter)
        ],
        not base.config.checkpoint,
    )


def _on_checkpoint(options: Namespace) -> Brought:
    """A pretrained checkpoint, and adapters in folders. These are read first: they are small."""
    if options.base is not None:
        raise ValueError("--base goes with --run: a checkpoint is one base")
    names, device = short_names(options.adapters), choose_device(options.device)
    for name in names:
        if not Path(name).is_dir():
            raise ValueError(f"{name} is no folder: name one that PEFT or save_adapter wrote")
    adapters = {short: load_adapter(name) for name, short in names.items()}
    choose_matmul(options.matmul)
    model, tokenizer = load_base(options.checkpoint, None, options.dtype or "fp32", device)
    folders = {short: Path(name) for name, short in names.items()}
    source = Path(options.checkpoint).expanduser()
    base_folders = [source] if source.is_dir() else []
    return Brought(model, tokenizer, names, adapters, folders, base_folders)
