"""What the commands on adapters do: train, merge, route, ask, hand on to other libraries."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lora import Adapter, load_adapter, save_adapter, use_ways
from recycle.decide.statistics import wilson
from recycle.measure.ask import encode_prompt, tally
from recycle.measure.beside import READS, compare
from recycle.measure.cell import answers_to, stages_of
from recycle.measure.routed import Put, check_fit, mean_gates, put_on
from recycle.measure.second import versions
from recycle.plan import Expert
from recycle.reuse.by_name import router_by_name
from recycle.reuse.examples import find_examples
from recycle.reuse.learning import Lesson
from recycle.reuse.merge import weighted_sum
from recycle.reuse.merges import LEARNERS, merge_by_name
from recycle.reuse.method import Given
from recycle.run import progress
from recycle.run.device import choose_device
from recycle.run.environment import describe_checkout, describe_environment, why_dirty
from recycle.run.folder import base_folder
from recycle.run.matmul import choose_matmul
from recycle.run.names import did_you_mean, inside, listing, plain_file, unknown
from recycle.run.ways import ways_of_run
from recycle.show.record import record_second
from recycle.studies import open_study
from recycle.studies.check import check_expert
from recycle.train.base import Base, is_pretrained
from recycle.train.experts import open_adapter, train_experts
from recycle.train.export import ADAPTERS
from recycle.train.export import export as export_base
from recycle.train.settings import assignments, change
from tasks import Question


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


def export(options: Namespace) -> None:
    base = open_named(options)
    adapters = each_once(base, options.adapters)
    check_fit(base.model, adapters)
    named = {Path(name).resolve().name: adapter for name, adapter in adapters.items()}
    if len(named) < len(adapters):
        raise ValueError("two of these folders have one name: export them one after the other")
    export_base(base, named, options.out)
    print(f"saved {options.out}: transformers.AutoModelForCausalLM.from_pretrained opens it")
    for name in named:
        print(f"saved {options.out / ADAPTERS / name}: peft.PeftModel.from_pretrained loads it")


def second_implementation(options: Namespace) -> None:
    versions()
    if options.record is not None:
        plain_file(options.record, "--record")
        if dirty := why_dirty(describe_checkout()):
            raise ValueError(f"{dirty}: commit first, or leave out --record")
    base = open_named(options)
    for group in options.groups:
        _check_group(base, group)
    groups = list(dict.fromkeys(options.groups))
    slugs = [Expert(reads, group).slug for group in groups for reads in READS]
    experts = each_once(base, slugs)
    command = "python -m recycle " + shlex.join(options.given)
    environment = describe_environment(choose_matmul(options.matmul), command)
    with progress.showing(
        len(slugs) * base.config.train.steps * base.config.train.tokens, options.quiet
    ):
        compared = compare(base, experts, groups)
    print(record_second(base, options.run, compared, environment, options.record), end="")
    if options.record is not None:
        print(f"recorded: {options.record}")


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
    use_ways(ways_of_run(options.run) or {})
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
