"""Compares a model with what another program computes from the exported files, on speech."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from w2vlab.interop.comparison.outputs import CODES, LOG_PROBABILITIES, LOGITS, compute_outputs
from w2vlab.interop.comparison.peers import Peer
from w2vlab.interop.comparison.speech import Speech
from w2vlab.modules.update import TrainedModule

LARGEST_DEVIATION = 1e-4
"""Above it, an export failed, unless the model's own rounding is of that size."""

_TIMES_ROUNDING = 3
"""Two computations in float32 deviate from each other by up to the sum of their deviations from the exact values."""

_SAME = {LOGITS: LOG_PROBABILITIES, LOG_PROBABILITIES: LOGITS}
"""Outputs of which one program has either."""


@dataclass
class Deviation:
    """How far an output is from ours, over all utterances.

    Attributes:
        largest: Largest difference of two values, relative to the largest value if that is above 1; of codes the share
            that differs. Infinite if the shapes differ or a value is not finite.
        num_values: Values that were compared.
    """

    largest: float = 0.0
    num_values: int = 0

    def add(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        """Adds an output of one utterance."""
        if ours.shape != theirs.shape or math.isinf(self.largest):  # of codes, infinity times 0 would be no number
            self.largest = math.inf
            return
        if name == CODES:
            share = (ours != theirs).sum().item() / max(1, ours.numel())
            total = self.num_values + ours.numel()
            self.largest = (self.largest * self.num_values + share * ours.numel()) / max(1, total)
        elif ours.numel():
            scale = max(1.0, ours.abs().max().item())
            difference = (ours.double() - theirs.double()).abs().max().item() / scale
            self.largest = max(self.largest, difference) if math.isfinite(difference) else math.inf
        self.num_values += ours.numel()


@dataclass
class Comparison:
    """A comparison with another program.

    Attributes:
        peer: The program and the class of its model; None if there was none, and `remarks` says why.
        speech: What it was computed on.
        deviations: By output.
        rounding: How far our own outputs in float32 are from those in float64, of outputs that deviate by more than
            `LARGEST_DEVIATION`. The logarithms of quiet mel channels beside loud ones round by 1e-3.
        remarks: What was not compared, and why, one sentence each.
    """

    peer: str | None
    speech: Speech | None = None
    deviations: dict[str, Deviation] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def largest(self) -> float:
        """The largest deviation of any output."""
        return max((deviation.largest for deviation in self.deviations.values()), default=0.0)

    @property
    def is_equal(self) -> bool:
        """Whether no output deviates by more than `LARGEST_DEVIATION`, or three times our own rounding."""
        return all(
            deviation.largest <= max(LARGEST_DEVIATION, _TIMES_ROUNDING * self.rounding.get(name, 0.0))
            for name, deviation in self.deviations.items()
        )


def compare_with(peer: Peer, module: TrainedModule, speech: Speech) -> Comparison:
    """Compares all outputs that both programs have, each utterance alone and without padding.

    Args:
        peer: The other program's model.
        module: Our model, in evaluation mode.
        speech: The utterances.
    """
    found = Comparison(peer.name, speech)
    not_theirs: dict[str, None] = {}
    for waveform in speech.inputs:
        ours, theirs = compute_outputs(module, waveform), peer(waveform)
        not_theirs |= dict.fromkeys(name for name in ours if name not in theirs and _SAME.get(name) not in theirs)
        for name in ours:
            if name in theirs:
                found.deviations.setdefault(name, Deviation()).add(name, ours[name], theirs[name])
    found.rounding = _rounding(module, speech, found.deviations)
    found.remarks += peer.remarks
    found.remarks += [
        f"In float32, w2vlab's own {name} deviate by {rounding:.1e} from float64: so much is rounding."
        for name, rounding in found.rounding.items()
    ]
    if not_theirs:
        found.remarks.append(
            f"Not compared, because the other model does not give them: {', '.join(_grouped(not_theirs))}."
        )
    return found


def _rounding(module: TrainedModule, speech: Speech, deviations: Mapping[str, Deviation]) -> dict[str, float]:
    """Returns how far our outputs are from those in float64, of the outputs that deviate too far; not of codes."""
    names = [
        name
        for name, deviation in deviations.items()
        if name != CODES and LARGEST_DEVIATION < deviation.largest < math.inf
    ]
    if not names:
        return {}
    exact = copy.deepcopy(module).double()
    found = {name: Deviation() for name in names}
    for waveform in speech.inputs:
        ours, expected = compute_outputs(module, waveform), compute_outputs(exact, waveform.double())
        for name in names:
            found[name].add(name, expected[name], ours[name])
    return {name: deviation.largest for name, deviation in found.items() if math.isfinite(deviation.largest)}


def _grouped(names: dict[str, None]) -> Iterator[str]:
    """Yields names, with consecutive layers as a range: `layer 0 to layer 11`."""
    run: list[int] = []

    def flush() -> Iterator[str]:
        if run:
            yield f"layer {run[0]}" + (f" to layer {run[-1]}" if len(run) > 1 else "")
        run.clear()

    for name in names:
        number = int(name.removeprefix("layer ")) if name.startswith("layer ") else None
        if number is None or (run and number != run[-1] + 1):
            yield from flush()
        if number is None:
            yield name
        else:
            run.append(number)
    yield from flush()
