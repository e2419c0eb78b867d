"""`w2vlab hubert`: cluster, encode and fit in turn, from nothing to an evaluated HuBERT."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any

from w2vlab.cli.corpus.cluster_options import ClusterOptions
from w2vlab.cli.corpus.encode_options import EncodeOptions
from w2vlab.cli.corpus.hubert_options import HubertOptions
from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.evaluation_options import EvaluateOptions
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.extraction.hubert.changes import Changes, find_changes
from w2vlab.extraction.hubert.plan import (
    UNITS_PATH,
    UNITS_SIZE,
    Extras,
    Iteration,
    named_options,
    pending_steps,
    plan_steps,
)
from w2vlab.extraction.hubert.record import LOCK, ChainRecord
from w2vlab.extraction.hubert.running import StepError, run_steps
from w2vlab.extraction.hubert.step import Step
from w2vlab.extraction.hubert.summary import TABLE, make_lines, rich_table, write_table
from w2vlab.sweeps.running.command import own_program
from w2vlab.utils.files import folder_name, make_writable
from w2vlab.utils.folder_lock import folder_lock
from w2vlab.utils.options import without_options

_OF_THE_CHAIN = {
    "config": "give the configurations without an option, one an iteration",
    "ckpt_path": "the same command resumes",
    "new_run": "use --redo",
    "trainer.default_root_dir": "use --out",
    "seed_everything": "use --seed",
    UNITS_PATH: "the steps before a run write its units",
    UNITS_SIZE: "use --k",
}
"""Options of `w2vlab fit` that the chain sets, and what to do instead."""

_OF_THE_STEPS = {
    "cluster": {"k": "use --k", "layer": "use --layers", "seed": "use --seed", "exclude": "use --data.exclude"},
    "encode": {"what": "a run needs units", "centers": "they are of the step before", "layers": "use --layers"},
    "evaluate": {"folder": "the result is in the folder of the run"},
}
"""Options of the other commands that the chain sets, and what to do instead."""

_WIDTH = 200


def run(words: Sequence[str]) -> int:
    """Runs a chain.

    Args:
        words: What follows `hubert` on the command line.

    Returns:
        Exit status: 0 all steps are complete, 1 one has failed or the chain cannot be run, 2 wrong usage, 128 and the
        number of the signal that has ended it.
    """
    parser = CommandParser(HubertOptions, "hubert", "configs", with_config=False)
    own, fit_words = parser.split(words)
    configs = _leading(fit_words)
    if {"-h", "--help"} & set(fit_words):
        parser.parse(["--help"])
    options = parser.parse([*configs, *own])
    try:
        with messages_shown():
            command = shlex.join(["w2vlab", "hubert", *without_options(words, "redo")])  # which would start again
            return _run(options, fit_words[len(configs) :], command)
    except KeyboardInterrupt:
        sys.stderr.write("\nSIGINT: ended before the first step.\n")
        return 128 + signal.SIGINT
    except user_errors(OSError) as problem:
        return report_problem(problem)


def _run(options: HubertOptions, fit_words: Sequence[str], command: str) -> int:
    folder = options.out or Path("runs", "hubert", folder_name(Path(options.configs[0]).stem))
    extras = _extras(options)
    iterations: list[Iteration] = []
    for number in range(1, options.num_iterations + 1):
        iterations.append(_iteration(number, options, fit_words, iterations[-1] if iterations else None))
    steps = plan_steps(folder, iterations, extras)
    in_use = (
        f"`out` must not be in use, but a chain (process {{process}}) or one of its steps still runs in {folder}. "
        "Wait, end it, or use another folder."
    )
    with ExitStack() as stack:
        if options.dry_run:
            record = ChainRecord(folder)
            _print_commands(steps, find_changes(steps, record, list(options.redo)))
            return 0
        make_writable(folder, "out")
        lock = stack.enter_context(folder_lock(folder, LOCK, in_use))
        record = ChainRecord(folder)
        changes = find_changes(steps, record, list(options.redo))
        changes.refuse(folder)
        changes.apply(record)
        try:
            stopped = run_steps(steps, record, own_program(), _say, [lock])
        except (StepError, OSError) as problem:
            sys.stderr.write(f"error: {problem}\n{_where(steps)} The same command resumes there:\n{command}\n")
            return 1
        if stopped:
            name = signal.Signals(stopped).name
            _say(f"Interrupted by {name}. {_where(steps)} The same command resumes there:\n{command}")
            return 128 + stopped
        lines = make_lines(iterations, record)
        write_table(lines, record)
        output_console(_WIDTH).print(rich_table(lines), highlight=False)
        _say(f"Written: {folder / TABLE}. Curves: w2vlab report {shlex.quote(str(folder))}")
        return 0


def _extras(options: HubertOptions) -> Extras:
    """Returns the further options of the commands, checked."""
    corpus = [] if options.corpus is None else ["--corpus", options.corpus]
    for command, set_by_the_chain in _OF_THE_STEPS.items():
        for name in named_options(shlex.split(getattr(options, command))):
            if name in set_by_the_chain:
                raise ValueError(
                    f"`{command}` must not have --{name}, because the chain sets it: {set_by_the_chain[name]}."
                )
    evaluate = [*corpus, *shlex.split(options.evaluate)]
    CommandParser(EvaluateOptions, "evaluate", "checkpoint").parse(["…", *evaluate])
    cluster, encode = shlex.split(options.cluster), shlex.split(options.encode)
    three = ("source", "data", "out")
    CommandParser(ClusterOptions, "cluster", three).parse(["…", "…", "…", *cluster])
    CommandParser(EncodeOptions, "encode", three).parse(["…", "…", "…", "--what=units", *encode])
    devices = [] if options.devices is None else ["--devices", str(options.devices)]
    return Extras(
        cluster=[*devices, *cluster],
        encode=[*devices, *encode],
        evaluate=evaluate,
        evaluated=options.evaluated,
    )


def _iteration(number: int, options: HubertOptions, fit_words: Sequence[str], before: Iteration | None) -> Iteration:
    """Returns an iteration whose options of `w2vlab fit` are checked, from the one before.

    Raises:
        ValueError: Its run cannot start.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.cli.lightning.parsed import check_run
    from w2vlab.registry import load_parts

    for word in fit_words:
        name = word.partition("=")[0].lstrip("-").replace("init_args.", "")
        if name in _OF_THE_CHAIN:
            raise ValueError(f"`{name}` must not be given, because the chain sets it: {_OF_THE_CHAIN[name]}.")
    config, k = options.config_of(number), options.clusters[number - 1]
    words = [
        *("--config", config, *fit_words),
        *([] if options.seed is None else [f"--seed_everything={options.seed}"]),
        *([] if options.devices is None else [f"--trainer.devices={options.devices}"]),
    ]
    load_parts()
    try:
        _, resolved = check_run(words)
    except ValueError as problem:
        raise ValueError(f"The run of iteration {number} cannot start: {problem}\nNo step was started.") from problem
    _check(number, config, resolved)
    layer = options.clustered_layers[number - 1]
    return Iteration(
        number=number,
        source=options.first if before is None else None,
        layer=_middle(before) if layer is None and before is not None else layer,
        k=k,
        run_words=words,
        run_options=resolved,
    )


def _check(number: int, config: str, resolved: dict[str, Any]) -> None:
    quantizer = str(resolved.get("model.quantizer")).rpartition(".")[2]
    if quantizer != "FileTargets":
        raise ValueError(
            f"`model.quantizer` must be FileTargets, which takes units from a file, but is {quantizer} in {config} "
            f"(iteration {number}). `w2vlab configs` lists the recipes: hubert_small, hubert_base."
        )
    if (books := resolved.get("model.quantizer.num_codebooks", 1)) != 1:
        raise ValueError(
            f"`model.quantizer.num_codebooks` must be 1, because an iteration has one clustering, but is {books} in "
            f"{config}. For several, type the commands of --dry_run with a `--k` each, and give all paths to the run."
        )
    if not isinstance(resolved.get("data.corpus"), str):
        raise ValueError(
            "`data.corpus` must be one corpus, because an iteration has the units of one, but is a mixture. Write one "
            "lhotse manifest of all of it."
        )
    if any(name.startswith("data.validation.") for name in resolved) or resolved.get("data.validation") is not None:
        raise ValueError(
            "`data.validation` must not be set, because only the units of `data.corpus` are computed: set a part of it "
            "aside with data.validation_fraction."
        )


def _middle(iteration: Iteration) -> int:
    """Returns the middle layer of the model of an iteration."""
    layers = iteration.run_options.get("model.context.num_layers")
    if not isinstance(layers, int):
        raise ValueError(
            f"`layers` must be given, because the context network of iteration {iteration.number} does not say how "
            "many it has."
        )
    return max(1, layers // 2)


def _leading(words: Sequence[str]) -> list[str]:
    """Returns the words before the first option: the configurations."""
    return list(takewhile(lambda word: not word.startswith("-"), words))


def _print_commands(steps: Sequence[Step], changes: Changes) -> None:
    """Prints the steps as lines of a shell script; those that are complete as comments."""
    redone = {step.name for step in changes.redone}
    pending = {step.name for step in pending_steps(steps)} | redone
    for step in steps:
        texts = changes.changed.get(step.name)
        note = " (done)" if step.name not in pending else " (again)" if step.name in redone else ""
        changed = "" if not texts or step.name in redone else f": was run with other options: {', '.join(texts)}"
        _say(f"# {step.name}{note}{changed}\n{'# ' if note == ' (done)' else ''}{step.shell_line()}")


def _where(steps: Sequence[Step]) -> str:
    complete = [step.name for step in steps if step.result() is not None]
    return f"Complete: {', '.join(complete) or 'no step'}."


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # in order with the output of the steps
