"""What the commands do, given the options that recycle/__main__.py reads."""

from __future__ import annotations

import os
import re
import shlex
import webbrowser
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from lora import Adapter, load_adapter, save_adapter
from recycle.decide.statistics import wilson
from recycle.measure.ask import encode_prompt, tally
from recycle.measure.cell import answers_to, stages_of
from recycle.measure.gsm import describe
from recycle.measure.routed import Put, mean_gates, put_on
from recycle.plan import Expert
from recycle.reuse.by_name import router_by_name
from recycle.reuse.examples import find_examples
from recycle.reuse.learning import Lesson
from recycle.reuse.merge import weighted_sum
from recycle.reuse.merges import LEARNERS, merge_by_name
from recycle.reuse.method import Given
from recycle.reuse.methods import METHODS
from recycle.run import progress
from recycle.run.device import choose_device, describe_device
from recycle.run.disk import read_json
from recycle.run.environment import describe_environment
from recycle.run.folder import base_folder, claim_folder
from recycle.run.launch import launch
from recycle.run.matmul import choose_matmul
from recycle.run.names import did_you_mean, inside, listing, plain_file, unknown
from recycle.show.page import write_report
from recycle.show.record import PAGE_HEAD, markdown, record, rejudge, write_results
from recycle.studies import DESIGNS, Study, open_study
from recycle.studies.check import check, check_expert
from recycle.study import run as run_study
from recycle.train.base import Base, Device, forget_base, is_pretrained, load_base
from recycle.train.experts import open_adapter, train_experts
from recycle.train.known import known_facts
from recycle.train.settings import assignments, change
from tasks import Question
from tasks.gsm_symbolic import LEVELS

RESULTS = Path(__file__).parent / "results"
ON_CHECKPOINT = {"two-hop": "two-hop-english"}  # a study, and what it is on a checkpoint


def study(options: Namespace) -> int:
    """All settings are checked before any work begins, here or in other processes."""
    if options.checkpoint is not None and options.task not in ON_CHECKPOINT:
        raise ValueError(f"--checkpoint goes with {', '.join(ON_CHECKPOINT)}, not {options.task}")
    design = DESIGNS[options.task if options.checkpoint is None else ON_CHECKPOINT[options.task]]
    device = choose_device(options.device)
    config = replace(design.preset(options.preset), dtype=options.dtype)
    made = Study(design, change(config, assignments(options.set)))
    name = options.task if options.checkpoint is None else design.name
    folder = options.run or Path("runs") / f"{name}-{options.preset}"
    if options.checkpoint is not None:
        made = _on_checkpoint(made, options, folder, device)
    check(made)
    if options.processes > 1 and "RANK" not in os.environ:
        claim_folder(made.config, folder)
        forget_base()
        return launch(options.given, options.processes)
    command = "python -m recycle " + shlex.join(options.given)
    matmul = choose_matmul(options.matmul)
    environment = describe_environment(matmul, command, describe_device(device))
    run_study(made, folder, environment, options.quiet, device)
    if os.environ.get("RANK", "0") == "0":
        _write_report(made.settled(folder), folder)
    return 0


def _on_checkpoint(made: Study, options: Namespace, folder: Path, device: Device) -> Study:
    """The study with a checkpoint for its base, and with the facts that the checkpoint knows: those
    that the run's folder names, or that are asked now."""
    for key in assignments(options.set):
        if key.startswith(("pretrain.", "model.")) and key != "model.context":
            raise ValueError(f"--set {key}: a checkpoint is trained already, and has its own shape")
    made = Study(made.design, replace(made.config, checkpoint=options.checkpoint))
    if (folder / "config.json").exists():
        known = open_study(folder).config.task.known
    else:
        check(made)
        config = made.config
        model, tokenizer = load_base(options.checkpoint, config.model.context, config.dtype, device)
        known = known_facts(model, tokenizer, made.world(made.config.seeds[0]))
    return Study(made.design, change(made.config, {"task.known": known}))


def report(options: Namespace) -> None:
    if options.rejudge is not None and options.record is None:
        raise ValueError("--rejudge goes with --record FILE: a report alone records nothing")
    if options.record is not None:
        plain_file(options.record, "--record")
    made = open_study(options.run)
    _write_report(made, options.run)
    if options.record is not None:
        record(made, options.run, options.record, options.rejudge)
        print(f"recorded: {options.record}")
    if options.open:
        webbrowser.open((options.run / "report.html").resolve().as_uri())


def _write_report(made: Study, folder: Path) -> None:
    print(write_report(made, folder))
    print(f"\nreport: {folder / 'report.html'}")


def methods(options: Namespace) -> None:
    """Every method as a table; dW_i is the update of expert i of N, v_i its prototype."""
    heads = ("method", "family", "formula", "needs", "source")
    rows = [(m.name, m.family, m.formula, m.needed, m.source) for m in METHODS]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    print("dW_i = s_i B_i A_i: the update of expert i of N; v_i: its top right singular vector\n")
    for row in (heads, *rows):
        print("  ".join([*(f"{w:{n}}" for w, n in zip(row, widths, strict=False)), row[-1]]))


def results(options: Namespace) -> None:
    records = sorted(options.folder.glob("*.json"))
    for path in records:
        with _a_record(path):
            markdown(read_json(path))
    page = options.folder / "README.md"
    ours = PAGE_HEAD.splitlines()[0]
    if not records or (page.exists() and not page.read_text("utf-8", "replace").startswith(ours)):
        raise ValueError(f"{options.folder} holds no recorded results, or a README.md of its own")
    for path in write_results(options.folder):
        print(f"made: {os.path.relpath(path)}")


def judge_again(options: Namespace) -> None:
    with _a_record(plain_file(options.file, "FILE")):
        rejudge(options.file, options.reason)
    print(f"judged again: {options.file}")


def table(options: Namespace) -> None:
    with _a_record(options.file):
        shown = markdown(read_json(options.file))
    print(shown, end="")


@contextmanager
def _a_record(path: Path) -> Iterator[None]:
    """What fails inside is the fault of this file, which is no record, or a damaged one."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise ValueError(
            f"{path} is no recorded result ({type(error).__name__}: {error}): "
            "report RUN --record FILE makes one"
        ) from None


def gsm(options: Namespace) -> None:
    named = {level: getattr(options, level.lower()) for level in LEVELS}
    print(describe({level: path for level, path in named.items() if path}, options.answers))


# On a finished study -----------------------------------------------------------------------------


def train(options: Namespace) -> None:
    changed = assignments(options.set)
    for key, value in changed.items():
        if key.split(".")[0] not in ("train", "adapter"):
            raise ValueError(
                f"--set {key}={value}: the base is trained already, only train.* and adapter.* can "
                "be set here"
            )
    base = open_named(options)
    _check_group(base, options.group)
    expert = Expert(options.reads, options.group, base=base.spec)
    config = change(base.config, changed)
    if config.adapter.kind != "lora":
        raise ValueError(
            f"adapter.kind = {config.adapter.kind!r}: this command saves an adapter, "
            "add --set adapter.kind=lora"
        )
    check_expert(config, base.world, expert)
    target = inside(library_of(base), options.name or f"{expert.slug}-own", "--name")
    steps = config.train
    with progress.showing(steps.steps * steps.tokens, options.quiet):
        trained = train_experts(base, [expert], changed).experts[expert.slug]
    assert isinstance(trained, Adapter)  # of the kind that was checked above
    save_adapter(trained, target)
    print(f"saved {target}")


def merge(options: Namespace) -> None:
    if (options.weights is not None) != (options.method == "weighted_sum"):
        raise ValueError("--weights goes with --method weighted_sum, and that with --weights")
    learns = options.method in LEARNERS
    if options.examples is not None and not learns:
        raise ValueError(f"--examples goes with --method {' or '.join(LEARNERS)}")
    base = open_named(options)
    target = inside(library_of(base), options.out, "--out")
    adapters = [_adapter(base, name) for name in options.adapters]
    settings = assignments(options.set)
    if options.weights:
        if settings:
            raise ValueError("weighted_sum has no options for --set: its --weights say everything")
        merged = weighted_sum(adapters, options.weights)
    else:
        lesson = None
        if learns:
            examples = _examples(base, options, adapters, settings.pop("examples", None))
            given = Given(base.model, base.tokenizer)
            lesson = Lesson.from_examples(examples, given)
        merged = merge_by_name(options.method, adapters, settings, lesson)
    save_adapter(merged, target)
    ranks = ", ".join(map(str, sorted({merged.rank(path) for path in merged.paths})))
    print(f"saved {target}: {merged.origin['formula']}, rank {ranks}, {len(merged.paths)} layers")


def _examples(
    base: Base, options: Namespace, adapters: Sequence[Adapter], count: str | None = None
) -> list[Question]:
    """The examples that the options ask for, about --group or about the one group that the
    adapters' records name."""
    group = options.group
    if group is None:
        groups = {str(adapter.origin.get("group")) for adapter in adapters}
        if len(groups) > 1 or not groups <= set(base.world.groups):
            raise ValueError(
                "the adapters' records do not name one group: say with --group whose questions the "
                f"examples are, {', '.join(base.world.groups)}"
            )
        (group,) = groups
    _check_group(base, group)
    if count is not None and not re.fullmatch(r"[0-9]{1,9}", count):
        raise ValueError(f"--set examples={count}: a whole number")
    number = None if count is None else int(count)
    return find_examples(options.examples, number, base.world, group, base.tokenizer)


def route(options: Namespace) -> None:
    base = open_named(options)
    _check_group(base, options.group)
    adapters = each_once(base, options.adapters)
    put = _routed(base, options, adapters)
    _tell_left_out(put)
    theirs = {f"adapter{i}": name for i, name in enumerate(adapters)}
    for form, questions in put.questions.items():
        encoded = [encode_prompt(base.tokenizer, question) for question in questions]
        rows = [i for i, prompt in enumerate(encoded) if len(prompt) == len(encoded[0])]
        stages = stages_of(put.prepared, {form: [questions[i] for i in rows]})[form]
        modes = [own[0].mode for own in stages]
        layers = mean_gates(base, torch.tensor([encoded[i] for i in rows]), modes)
        names = ", ".join(theirs.get(name, name) for name in modes[0].names) if modes[0] else ""
        print(f"\n{form}: e.g. {questions[0].prompt}")
        print(f"{'':38}mean gate of {names}; entropy in nats")
        for path, (gates, entropy) in layers.items():
            means = "".join(f"{gate:8.3f}" for gate in gates)
            print(f"  {path:36}{means}{entropy:10.3f}")


def evaluate(options: Namespace) -> None:
    base = open_named(options)
    _check_group(base, options.group)
    adapters = each_once(base, options.adapters)
    routes = (options.router, options.examples, options.top_k) != (None, None, None)
    if len(adapters) > 1:
        put = _routed(base, options, adapters)
    elif routes or options.temperature != 1.0:
        raise ValueError(
            "one adapter is not routed: --router, --examples, --top-k and --temperature want "
            "several"
        )
    else:
        put = put_on(base, options.group, adapters)
    _tell_left_out(put)
    everything = answers_to(base, put.questions, stages_of(put.prepared, put.questions))
    for form, answers in everything.items():
        outcomes, notes = tally(base.world, answers)
        low, high = wilson(outcomes["right"], len(answers))
        counts = {"n": len(answers), **outcomes, **notes}
        print(
            f"{form:8} {outcomes['right'] / len(answers):.2f} [{low:.2f}, {high:.2f}]  "
            + ", ".join(f"{name} {count}" for name, count in counts.items())
        )
        for a in answers[: options.show]:
            print(f"    [{a.outcome}] {a.question.prompt} >> {a.completion}")


def _tell_left_out(put: Put) -> None:
    if put.left_out:
        print(f"not asked: {put.left_out} questions of each form, about people of the examples")


def _routed(base: Base, options: Namespace, adapters: dict[str, Adapter]) -> Put:
    order = getattr(options, "order", "outputs")
    method = router_by_name(options.router or "arrow", options.top_k, options.temperature, order)
    if method.needs == "examples":
        examples = _examples(base, options, list(adapters.values()))
    elif options.examples is not None:
        raise ValueError(f"--examples: the router {method.name} learns from no examples")
    else:
        examples = []
    return put_on(base, options.group, adapters, method, examples)


def open_named(options: Namespace) -> Base:
    """The finished base that the options name. Raises ValueError where there is none."""
    device = choose_device(options.device)
    made = open_study(options.run)
    seed = made.config.seeds[0] if options.seed is None else options.seed
    finished = [
        spec.name
        for of, spec in made.bases
        if of == seed
        and (made.config.checkpoint or is_pretrained(base_folder(options.run, seed, spec.name)))
    ]
    if options.base not in finished:
        seeds = ", ".join(map(str, made.config.seeds))
        raise ValueError(
            f"{options.run} has no finished base {options.base!r} for seed {seed}"
            f"{did_you_mean(options.base, finished)}: there are {listing(finished)}; its seeds are "
            f"{seeds}; run the study first"
        )
    choose_matmul(options.matmul)
    if options.dtype:
        made = replace(made, config=replace(made.config, dtype=options.dtype))
    return made.open_base(seed, made.design.base(options.base), options.run, device)


def _check_group(base: Base, group: str) -> None:
    if group not in base.world.groups:
        raise ValueError(f"--group {group}: {unknown('group', group, base.world.groups)}")


def library_of(base: Base) -> Path:
    return base.folder / "library"


def _adapter(base: Base, name: str) -> Adapter:
    """An adapter of the base's library, or of another folder."""
    library = library_of(base)
    if (library / name).is_dir():
        return open_adapter(base.folder, name)
    if Path(name).is_dir():
        return load_adapter(name)
    known = sorted(p.name for p in library.glob("[!.]*"))
    close = did_you_mean(name, known)
    raise ValueError(f"no adapter {name!r} in {library}{close}: there are {listing(known)}")


def each_once(base: Base, names: list[str]) -> dict[str, Adapter]:
    """Adapters by the names that the user gave. Raises ValueError for a name that stands twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the adapter {twice!r} is named twice: name each once")
    return {name: _adapter(base, name) for name in names}
