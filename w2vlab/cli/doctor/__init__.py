"""`w2vlab doctor`: whether a run can start on this machine, and what to do where it cannot."""

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
from w2vlab.cli.packages import reason, requirements

_HELP = """\
Usage: w2vlab doctor [--json]

Looks at everything that a run needs: packages and whether they can be loaded, processors, GPUs, memory, limits, audio
codecs, Weights & Biases, folders, the C++ compiler. A line each:

  ok       nothing is wrong
  note     something is limited or slower than it could be
  problem  something is broken

Below each note and problem stands what to do. Packages are loaded in processes of their own, so that a broken one
cannot end the examination. Nothing is asked of the network, and no key is shown.

Options:
  --json  Print the findings as JSON, for machines and for reports of problems; the home folder is `~`, and names of
          the user and the host are left out.

Exit status: 0, or 1 where no run can start.
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
    """Runs all checks, those that start processes side by side."""
    with ThreadPoolExecutor(3) as pool:
        loading = pool.submit(_load_all)
        finding_driver = pool.submit(find_driver)
        compiler = pool.submit(_looked, "C++ compiler", check_compiler)
        loaded, failed = loading.result()
        driver = finding_driver.result()
    nothing = Loaded()
    torch, soundfile = (loaded.get(name, nothing).facts for name in ("torch", "soundfile"))
    return [
        *_looked("w2vlab", check_w2vlab),
        *_looked("python", check_python),
        *failed,
        *(found for name in loaded for found in _looked(name, partial(check_package, name, loaded[name]))),
        *_looked("processors", partial(check_processors, torch.get("kernels"))),
        *_looked("memory", check_memory),
        *check_gpus(torch, driver),
        check_nccl(torch),
        *_looked("/dev/shm", check_shared_memory),
        *_looked("open files", check_open_files),
        *_looked("codecs", partial(check_codecs, soundfile)),
        *compiler.result(),
        *_looked("W&B", check_wandb),
        *_looked("runs", check_runs),
        *_looked("cache", check_cache),
        *_looked("temporary", check_temporary),
    ]


def _load_all() -> tuple[dict[str, Loaded], list[Finding]]:
    try:
        return load_all(list(requirements())), []
    except OSError as error:
        advice = "End other programs of this user, or ask for more open files and processes: ulimit -n, ulimit -u"
        return {}, [problem("packages", f"no process could be started: {reason(error)}", advice, blocks=True)]


def _looked(name: str, check: Callable[[], Finding]) -> list[Finding]:
    """Returns what a check finds; one that fails itself must not end the others."""
    try:
        return [check()]
    except Exception as error:
        return [note(name, f"could not be looked at: {type(error).__name__}: {reason(error)}", "")]
