"""Runs the steps as processes, one after another."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType

from w2vlab.extraction.hubert.figures import read_figures
from w2vlab.extraction.hubert.plan import pending_steps
from w2vlab.extraction.hubert.record import ChainRecord, StepRecord
from w2vlab.extraction.hubert.step import Step
from w2vlab.utils.messages import duration

_FORWARDED = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is closed; a run saves its state on SIGTERM
}
"""Signals that end the chain, and what is sent to the step that runs."""

Say = Callable[[str], None]


class StepError(Exception):
    """A step has failed; the message has its name and why."""


@dataclass
class Stop:
    """Whether the chain is to end, and by which signal.

    Attributes:
        signal: Number of the signal; 0 without one.
        process: The step that runs; None between two steps.
    """

    signal: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Ends the running step, which saves what it can; a second signal kills it."""
        again, self.signal = self.signal != 0, self.signal or number
        if self.process is not None and self.process.poll() is None:
            if again:
                kill_group(self.process)
            else:
                self.process.send_signal(_FORWARDED[signal.Signals(number)])


def run_steps(
    steps: Sequence[Step], record: ChainRecord, program: Sequence[str], say: Say, inherited: Sequence[int] = ()
) -> int:
    """Runs all steps that have no result yet, in order; their output is that of this process.

    Args:
        steps: All steps.
        record: The record of the folder, which is updated.
        program: The command of w2vlab.
        say: Prints a line.
        inherited: File descriptors that the processes keep open.

    Returns:
        0 if all steps are complete; the number of the signal that has ended the chain.

    Raises:
        StepError: A step has failed.
        OSError: A file of the chain cannot be written.
    """
    pending = {step.name for step in pending_steps(steps)}
    with _stopped_by_signals() as stop:
        for number, step in enumerate(steps, 1):
            title = f"[{number}/{len(steps)}] {step.name}"
            if step.name not in pending:
                say(f"{title}: {_skipped(step, record)}")
                _note_figures(step, record)
                continue
            say(f"{title}{_again(step, record)}\n{step.shell_line()}")
            seconds = _run(step, record, program, stop, inherited)
            if stop.signal:
                return stop.signal
            say(f"{title}: done in {duration(seconds)}")
    return 0


def _run(step: Step, record: ChainRecord, program: Sequence[str], stop: Stop, inherited: Sequence[int]) -> float:
    """Runs a step; returns its seconds."""
    command = step.command()
    known = record.steps.get(step.name)
    seconds = 0.0 if known is None else known.seconds
    entry = record.steps[step.name] = StepRecord(["w2vlab", *command], dict(step.options), seconds)
    record.write()  # before the step writes anything, so that its files are known to be its own
    start = time.monotonic()
    try:
        status = _wait([*program, *command], stop, inherited)
    finally:
        entry.seconds += time.monotonic() - start
    result = step.result()
    entry.finished = status == 0 and result is not None
    if entry.finished:
        entry.figures = read_figures(step)
    with suppress(OSError) if stop.signal or status else nullcontext():  # that the step has failed is said first
        record.write()
    if stop.signal:
        return entry.seconds
    if status:
        raise StepError(f"{step.name} {_ended(status)}; its last lines are above.")
    if result is None:
        raise StepError(f"{step.name} ended with status 0, but its result is not in {step.output}.")
    return entry.seconds


def _wait(command: Sequence[str], stop: Stop, inherited: Sequence[int]) -> int:
    """Runs a command to its end; returns its exit status."""
    if stop.signal:
        return 128 + stop.signal
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(inherited),
        # A session of its own: Ctrl-C reaches the chain only, which passes it on once.
        start_new_session=True,
    )
    stop.process = process
    try:
        if stop.signal:  # it came while the process was being started
            process.send_signal(signal.SIGTERM)
        while True:
            with suppress(subprocess.TimeoutExpired):  # so that a signal is handled that another thread has received
                return process.wait(timeout=10)
    except BaseException:
        kill_group(process)
        raise
    finally:
        stop.process = None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Handles the signals that end a chain, except for those that are ignored, as under `nohup`."""
    stop = Stop()
    previous = {number: signal.getsignal(number) for number in _FORWARDED}
    previous = {number: handler for number, handler in previous.items() if handler != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _note_figures(step: Step, record: ChainRecord) -> None:
    """Records what is missing of a step whose chain was killed before the step ended."""
    entry = record.steps.get(step.name)
    if entry is not None and not entry.finished and step.result() is not None:
        entry.finished, entry.figures = True, read_figures(step)
        record.write()


def _skipped(step: Step, record: ChainRecord) -> str:
    entry = record.steps.get(step.name)
    took = "" if entry is None or not entry.seconds else f" in {duration(entry.seconds)}"
    missing = "" if step.result() is not None else "; its files are missing, and nothing needs them"
    return f"done before{took}{missing}"


def _again(step: Step, record: ChainRecord) -> str:
    entry = record.steps.get(step.name)
    if entry is None:
        return ""
    return ": its files are missing, it runs again" if entry.finished else ": resumes"


def _ended(status: int) -> str:
    if status >= 0:
        return f"failed with status {status}"
    reason = ", as when memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{reason}"
