"""The command that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from w2vlab.utils.files import RUN_RECORD, RUNS, SWEEP_RECORD, folder_name
from w2vlab.utils.messages import one_line
from w2vlab.utils.options import without_checkpoint, without_options
from w2vlab.utils.plain_data import read_json

REPEATS = "repeats"
"""The folder below `runs/` that repeated runs go to."""

_ROOT = "trainer.default_root_dir"

_LOGS = ("trainer.logger.save_dir", "trainer.logger.init_args.save_dir")


def repeat_command(folder: Path) -> str:
    """Returns shell commands that repeat a run from its start, in its original working folder.

    The output goes to a separate folder, `runs/repeats/NAME`, because the original folder may belong to a trial, whose
    sweep would use the repetition as its result. W&B logs offline, so that no login is needed. For a resumed run it is
    the last of its commands, because options never come from a checkpoint.

    The options come from the author of the folder and may import any code, so read the commands before you run them.

    Args:
        folder: The run folder.

    Raises:
        ValueError: `run.json` is damaged, or does not have a command of `w2vlab fit`.
    """
    path = folder / RUN_RECORD
    try:
        content = read_json(path)
        last = content["continued"][-1] if content["continued"] else content
        words, working_folder = list(last["command"]), last["folder"]
        printable = all(isinstance(word, str) and word.isprintable() for word in (*words, working_folder))
        if words[:2] != ["w2vlab", "fit"] or not printable:
            raise ValueError(f"`command` must be one of w2vlab fit in printable characters, but is {words!r}")
        git, versions = last.get("git"), last.get("versions") or {}
        code = "the code was not in a git repository"
        if git:
            code = f"git commit {git['commit']}" + (", with uncommitted changes" if git["changed"] else "")
        known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise ValueError(one_line(f"{path} is damaged ({type(problem).__name__}: {problem}).", 400)) from None
    options = without_options(without_checkpoint(words[2:]), _ROOT, "checkpoint.dirpath")
    for option in _LOGS:
        others = without_options(options, option)
        if others != options:
            # The default, which is resolved to the root folder; some loggers require the option.
            options = [*others, f"--{option}={RUNS}"]
    command = ["w2vlab", "fit", *options, f"--{_ROOT}={_unused_folder(Path(working_folder), _repeat_name(folder))}"]
    line = f"cd {shlex.quote(working_folder)} && WANDB_MODE=offline {shlex.join(command)}"
    return "\n".join([f"# {one_line(code)}", f"# {one_line(known)}", line, ""])


def _repeat_name(folder: Path) -> str:
    """Returns a name for the repetition: the names of sweep and trial, or of the run folder and its parent."""
    absolute = folder.absolute()
    for trial in (absolute, *absolute.parents):
        if (trial.parent / SWEEP_RECORD).is_file():
            return folder_name(f"{trial.parent.name}-{trial.name}")
    return folder_name("-".join(absolute.parts[-2:]).lstrip("/.") or "run")


def _unused_folder(working_folder: Path, name: str) -> Path:
    """Returns a folder below `runs/` that does not exist yet, relative to the working folder."""
    root, number = Path(RUNS, REPEATS, name), 1
    while (working_folder / root).exists():
        number += 1
        root = Path(RUNS, REPEATS, f"{name}-{number}")
    return root
