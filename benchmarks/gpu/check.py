"""Everything that only a GPU can show, in one command of a few minutes; `scripts/gpu_check.sh` calls it.

    python -m benchmarks.gpu.check --out gpu.json
    python -m benchmarks.gpu.check --rehearse            # every part with tiny shapes on a CPU
    python -m benchmarks.gpu.check --parts base shipped  # some parts

Each part is a process of its own with a limit, the most valuable ones first; time that one leaves is added to the next.
The results are written as they come. A part that fails, or is cut at its limit, is recorded with what it had, and the
next one begins. The text that the parts print is beside the results, with the ending `.log`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu import report
from w2vlab.utils.files import write_atomically

ROOT = Path(__file__).parents[2]

MINUTES = 8.0
"""The time for which the parts are planned; with another one all of them are longer or shorter."""


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: Its name in the results; `benchmarks.gpu.parts` has a function for it.
        seconds: The time that is kept for it, of `MINUTES`.
    """

    name: str
    seconds: float


PARTS = (
    Part("machine", 15),
    Part("base", 115),
    Part("shipped", 95),
    Part("fused", 65),
    Part("large", 95),
    Part("strategies", 30),
    Part("kernels", 15),
    Part("tests", 50),
)
"""In the order in which they run."""

_GRACE = 3.0
"""Seconds in which a part that is stopped may end."""


@dataclass
class Results:
    """The results so far, in a file.

    Attributes:
        path: The file.
        content: What it holds.
    """

    path: Path
    content: dict[str, Any]

    def set(self, name: str, **values: Any) -> None:
        """Sets values of a part."""
        self.content["parts"].setdefault(name, {}).update(values)
        self.content["seconds"] = round(time.time() - self.content["started"], 1)
        write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")


def limit_of(part: Part, later: Sequence[Part], remaining: float, minutes: float) -> float:
    """Returns the seconds that a part may take.

    Args:
        part: The part.
        later: Those after it, for which their time is kept.
        remaining: Seconds until the end of the check.
        minutes: The time of the whole check.
    """
    share = minutes / MINUTES
    return max(remaining - share * sum(other.seconds for other in later), min(remaining, share * part.seconds))


def run_part(command: Sequence[str], name: str, limit: float, results: Results, folder: Path) -> None:
    """Runs a part as a process until it ends or its limit is over, and records its results while it runs."""
    found, text = folder / f"{name}.json", folder / f"{name}.log"
    read = 0

    def take() -> None:
        nonlocal read
        if found.exists() and (changed := found.stat().st_mtime_ns) != read:
            read = changed
            results.set(name, result=json.loads(found.read_text(encoding="utf-8")))

    started = time.monotonic()
    results.set(name, status="running", limit=round(limit, 1))
    with text.open("wb") as log:
        # In a session of its own, so that its own processes can be ended with it.
        process = subprocess.Popen(
            [*command, name, f"--result={found}", f"--seconds={limit:.1f}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started < limit:
                time.sleep(0.1)
                take()
            status = {None: "cut", 0: "done"}.get(process.poll(), "failed")
        finally:
            _end(process)
    take()
    with results.path.with_suffix(".log").open("ab") as log:
        log.write(f"=== {name}: {status}\n".encode() + text.read_bytes())
    lines = [line for line in text.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    error = {"error": "\n".join(lines[-3:])[-1000:]} if status == "failed" else {}
    results.set(name, status=status, seconds=round(time.monotonic() - started, 1), **error)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started, which may outlive it."""
    for number, wait in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="with tiny shapes on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that the check takes at most (8)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="file of the results (gpu_check.json)")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="only these")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"`--minutes` must be above 0, but is {options.minutes}.")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"`--out` must be in a folder that exists, but is {options.out}.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and prints the report; returns 0 if all of them are done, otherwise 1."""
    options = parse(arguments)
    end = time.monotonic() + 60 * options.minutes
    start = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "started": time.time()}
    kind = {"rehearsal": options.rehearse, "minutes": options.minutes}
    results = Results(options.out, {**start, **kind, "parts": {}})
    options.out.with_suffix(".log").unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.parts", *(["--rehearse"] if options.rehearse else [])]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part does not outlive it
    parts = [part for part in PARTS if part.name in options.parts]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for number, part in enumerate(parts):
            left = end - _GRACE - time.monotonic()
            if left < 1:
                results.set(part.name, status="left out", error="no time was left")
                continue
            limit = limit_of(part, parts[number + 1 :], left, options.minutes)
            print(f"{part.name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
            run_part(command, part.name, limit, results, Path(folder))
            found = results.content["parts"][part.name]
            print(f"{part.name}: {found['status']} after {found['seconds']} s", file=sys.stderr, flush=True)
            if part.name == "machine" and "device" not in found.get("result", {}):
                print(found.get("error", "The machine did not answer."), file=sys.stderr)
                return 1
    print(report.render(results.content))
    return int(any(part["status"] != "done" for part in results.content["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
