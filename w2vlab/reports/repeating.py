"""The command that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from w2vlab.files import RUN_RECORD, RUNS, SWEEP_RECORD, folder_name
from w2vlab.options import without_checkpoint, without_options
from w2vlab.plain_data import read_json
from w2vlab.wording import one_line

REPEATS = "repeats"
"""The folder below `runs/` that repeated runs go to."""

_ROOT = "trainer.default_root_dir"

_LOGS = ("trainer.logger.save_dir", "trainer.logger.init_args.save_dir")


def command_of(folder: Path) -> str:
    """Returns lines for a shell that repeat a run from its beginning, started where it was.

    What it writes goes to a folder of its own, `runs/repeats/NAME`: the run's own one may be that of a trial, and its
    sweep would take the repetition for its result. It logs to Weights & Biases' local files, which takes no login. Of a
    run that went on from a checkpoint it is the last of its commands: options never come from a checkpoint.

    Whoever made the folder has chosen the options, which may name any code: read the lines before they are run.

    Args:
        folder: The run's.

    Raises:
        ValueError: What the run says of itself is damaged, or is no command of `w2vlab fit`.
    """
    path = folder / RUN_RECORD
    try:
        content = read_json(path)
        last = content["continued"][-1] if content["continued"] else content
        words, place = list(last["command"]), last["folder"]
        printable = all(isinstance(word, str) and word.isprintable() for word in (*words, place))
        if words[:2] != ["w2vlab", "fit"] or not printable:
            raise ValueError(f"`command` must be one of w2vlab fit in printable characters, but is {words!r}")
        git, versions = last.get("git"), last.get("versions") or {}
        code = "the code was in no git repository"
        if git:
            code = f"git commit {git['commit']}" + (", with changes that are not in it" if git["changed"] else "")
        known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise ValueError(one_line(f"{path} is damaged ({type(problem).__name__}: {problem}).", 400)) from None
    options = without_options(without_checkpoint(words[2:]), _ROOT, "checkpoint.dirpath")
    for option in _LOGS:
        others = without_options(options, option)
        if others != options:
            options = [*others, f"--{option}={RUNS}"]  # which follows the root folder; some loggers must have one
    command = ["w2vlab", "fit", *options, f"--{_ROOT}={_elsewhere(Path(place), _name(folder))}"]
    line = f"cd {shlex.quote(place)} && WANDB_MODE=offline {shlex.join(command)}"
    return "\n".join([f"# {one_line(code)}", f"# {one_line(known)}", line, ""])


def _name(folder: Path) -> str:
    """Returns what a repetition is called: after its sweep and trial, else after the run's folder and the one above."""
    whole = folder.absolute()
    for trial in (whole, *whole.parents):
        if (trial.parent / SWEEP_RECORD).is_file():
            return folder_name(f"{trial.parent.name}-{trial.name}")
    return folder_name("-".join(whole.parts[-2:]).lstrip("/.") or "run")


def _elsewhere(place: Path, name: str) -> Path:
    """Returns a folder below `runs/` that is not there yet, as seen from where the run is started."""
    root, number = Path(RUNS, REPEATS, name), 1
    while (place / root).exists():
        number += 1
        root = Path(RUNS, REPEATS, f"{name}-{number}")
    return root
