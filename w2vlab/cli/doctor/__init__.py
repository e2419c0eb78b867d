"""`w2vlab doctor`: whether a run can start on this machine, and how to repair it if not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from w2vlab.cli.doctor.accounts import check_wandb
from w2vlab.cli.doctor.finding import Finding, as_json, as_lines, note, problem, without_names
from w2vlab.cli.doctor.folders import check_cache, check_runs, check_temporary
from w2vlab.cli.doctor.gpus import check_gpus, check_nccl, find_driver
from w2vlab.cli.doctor.limits import check_open_files, check_shared_memory
from w2vlab.cli.doctor.loading import Loaded, load_all
from w2vlab.cli.doctor.packages import check_package, check_python, check_w2vlab
from w2vlab.cli.doctor.processors import check_memory, check_processors
from w2vlab.cli.doctor.tools import check_codecs, check_compiler
from w2vlab.cli.errors.packages import reason, requirements

_HELP = """\
Usage: w2vlab doctor [--json]

Checks everything that a run needs: packages and whether they can be loaded, processors, GPUs, memory, limits, audio
codecs, Weights & Biases, folders, the C++ compiler. It prints a line for each:

  ok       nothing is wrong
  note     something is limited or slower than it could be
  problem  something is broken

Below each note and problem is its remedy. Packages are loaded in separate processes, so that a broken one cannot end
the checks. The network is not used, and no key is shown.

Options:
  --json  Print the findings as JSON, for machines and for reports of problems; the home folder is `~`, and names of
          the user and the host are left out.

Exit status: 0, or 1 if no run can start.
"""


def run(options: list[str]) -> int:
    """Examines the machine and the installation.

    Args:
        options: What follows `doctor` on the command line.

    Returns:
        Exit status: 0 a run can start, 1 it cannot, 2 wrong usage.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    if options not in ([], ["--json"]):
        sys.stderr.write(f"error: `w2vlab doctor` takes --json or nothing, but was given {' '.join(options)}.\n")
        return 2
    findings = examine()
    if options:
        sys.stdout.write(as_json(without_names(findings)))
    else:
        sys.stdout.write(as_lines(findings, sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return 1 if any(found.blocks for found in findings) else 0


def examine() -> list[Finding]:
    """Runs all checks, and those that start processes in parallel."""
    with ThreadPoolExecutor(3) as pool:
        loading = pool.submit(_load_all)
        finding_driver = pool.submit(find_driver)
        compiler = pool.submit(_checked, "C++ compiler", check_compiler)
        loaded, failed = loading.result()
        driver = finding_driver.result()
    nothing = Loaded()
    torch, soundfile = (loaded.get(name, nothing).facts for name in ("torch", "soundfile"))
    return [
        *_checked("w2vlab", check_w2vlab),
        *_checked("python", check_python),
        *failed,
        *(found for name in loaded for found in _checked(name, partial(check_package, name, loaded[name]))),
        *_checked("processors", partial(check_processors, torch.get("kernels"))),
        *_checked("memory", check_memory),
        *check_gpus(torch, driver),
        check_nccl(torch),
        *_checked("/dev/shm", check_shared_memory),
        *_checked("open files", check_open_files),
        *_checked("codecs", partial(check_codecs, soundfile)),
        *compiler.result(),
        *_checked("W&B", check_wandb),
        *_checked("runs", check_runs),
        *_checked("cache", check_cache),
        *_checked("temporary", check_temporary),
    ]


def _load_all() -> tuple[dict[str, Loaded], list[Finding]]:
    try:
        return load_all(list(requirements())), []
    except OSError as error:
        advice = "End other programs of this user, or ask for more open files and processes: ulimit -n, ulimit -u"
        return {}, [problem("packages", f"no process could be started: {reason(error)}", advice, blocks=True)]


def _checked(name: str, check: Callable[[], Finding]) -> list[Finding]:
    """Returns the finding of a check; a check that fails itself must not end the others."""
    try:
        return [check()]
    except Exception as error:
        return [note(name, f"could not be checked: {type(error).__name__}: {reason(error)}", "")]
