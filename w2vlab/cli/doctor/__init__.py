"""`w2vlab doctor`: whether a run can start on this machine, and what to do where it cannot."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from w2vlab.cli.doctor.accounts import check_wandb
from w2vlab.cli.doctor.finding import Finding, as_json, as_lines, without_names
from w2vlab.cli.doctor.folders import check_cache, check_runs, check_temporary
from w2vlab.cli.doctor.gpus import check_gpus, check_nccl, find_driver
from w2vlab.cli.doctor.limits import check_open_files, check_shared_memory
from w2vlab.cli.doctor.loading import Loaded, load_all
from w2vlab.cli.doctor.packages import check_packages, check_python, check_w2vlab
from w2vlab.cli.doctor.processors import check_memory, check_processors
from w2vlab.cli.doctor.tools import check_codecs, check_compiler
from w2vlab.cli.packages import requirements

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
        loading = pool.submit(load_all, list(requirements()))
        finding_driver = pool.submit(find_driver)
        compiler = pool.submit(check_compiler)
        loaded, driver = loading.result(), finding_driver.result()
    nothing = Loaded()
    torch = loaded.get("torch", nothing).facts
    return [
        check_w2vlab(),
        check_python(),
        *check_packages(loaded),
        check_processors(torch.get("kernels")),
        check_memory(),
        *check_gpus(torch, driver),
        check_nccl(torch),
        check_shared_memory(),
        check_open_files(),
        check_codecs(loaded.get("soundfile", nothing).facts),
        compiler.result(),
        check_wandb(),
        check_runs(),
        check_cache(),
        check_temporary(),
    ]
