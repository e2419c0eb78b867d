"""Prints an explanation as plain-text tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from w2vlab.explain.explanation import Explanation
from w2vlab.explain.flow import Shape
from w2vlab.explain.run import Start
from w2vlab.utils.messages import count, duration

_PLAIN_WIDTH = 200
"""Width if the output is not a terminal."""


def print_explanation(explanation: Explanation) -> None:
    """Prints an explanation, in one table for each topic.

    Args:
        explanation: The explanation.
    """
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    for title, table in (
        *_warm_start(explanation),
        (f"Tensor shapes of {explanation.model}: {_sizes(explanation)}", _flow(explanation)),
        (_parameters_title(explanation), _parameters(explanation)),
        ("Numbers", _numbers(explanation)),
        ("Schedules, after this many updates", _schedule(explanation)),
    ):
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        console.print(table, highlight=False)
        console.print()


def _warm_start(explanation: Explanation) -> list[tuple[str, Table]]:
    """Returns the initial weights of each part, if some are those of another model."""
    warm_start = explanation.warm_start
    if warm_start is None:
        return []
    table = _table("part", "weights", "parameters", "why")
    table.columns[2].justify = "right"
    for part in warm_start.parts:
        table.add_row(part.part, "loaded" if part.loaded else "new", f"{part.parameters:,}", part.why)
    return [("\n".join([warm_start.title, *warm_start.remarks()]), table)]


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def _sizes(explanation: Explanation) -> str:
    return ", ".join(f"{letter} {size}" for letter, size in explanation.flow.sizes.items() if size)


def _flow(explanation: Explanation) -> Table:
    table = _table("part", "class", "input", "output")
    for step in explanation.flow.steps:
        table.add_row(step.part, explanation.classes.get(step.part, ""), _shapes(step.takes), _shapes(step.gives))
    return table


def _shapes(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})".strip() for name, shape in shapes.items())


def _parameters_title(explanation: Explanation) -> str:
    text = f"{explanation.num_parameters:,} parameters"
    if explanation.num_frozen:
        text += f", of which {explanation.num_frozen:,} are not trained by a gradient"
    if explanation.gradients is None:
        return text
    return f"{text}, with the gradient norm of each term of the objective; 0 is exactly zero"


def _parameters(explanation: Explanation) -> Table:
    matrix = explanation.gradients
    terms = () if matrix is None else matrix.terms
    table = _table("part", "parameters", *terms)
    for column in table.columns[1:]:
        column.justify = "right"
    for part, number in explanation.parameters.items():
        norms = [] if matrix is None else [matrix.norm(term, part) for term in terms]
        table.add_row(part, f"{number:,}", *("0" if norm == 0 else f"{norm:.2g}" for norm in norms))
    for part, number in explanation.frozen.items():
        table.add_row(f"{part} (no gradient)", f"{number:,}", *("-" for _ in terms))
    return table


def _numbers(explanation: Explanation) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in (
        _frames(explanation)
        | _codes(explanation)
        | _masking(explanation)
        | _update(explanation)
        | _cost(explanation)
        | _start(explanation)
    ).items():
        table.add_row(name, text)
    return table


def _frames(explanation: Explanation) -> dict[str, str]:
    frames = explanation.frames
    return {
        "receptive field": f"{frames['receptive_field_samples']:.0f} samples, {frames['receptive_field_ms']:.4g} ms",
        "stride": f"{frames['stride_samples']:.0f} samples, {frames['stride_ms']:.4g} ms, "
        f"{frames['frame_rate_hz']:.4g} frames a second",
        "utterances": f"{frames['shortest_utterance_seconds']:.4g} to {frames['longest_utterance_seconds']:.4g} s; "
        "longer ones are cropped, shorter ones left out",
    }


def _codes(explanation: Explanation) -> dict[str, str]:
    codes = explanation.codes
    if codes is None:
        return {"codes": "none: targets are continuous"}
    return {
        "codes": f"{codes.num_codebooks} x {codes.codebook_size} entries; "
        f"perplexity, summed over codebooks, at most {codes.max_perplexity}",
        "bits of the codes": f"at most {codes.bits_per_frame:.4g} a frame, {codes.bits_per_second:.4g} a second: "
        "all entries alike, codebooks independent",
        "measurable entropy": f"at most {codes.measurable_bits:.4g} bits a frame from the "
        f"{explanation.update.targets:,.0f} target frames of an update",
    }


def _masking(explanation: Explanation) -> dict[str, str]:
    masking = explanation.masking
    if masking is None:
        return {}
    text = (
        f"{masking.hidden:.1%} of the frames are hidden (± {masking.hidden_deviation:.1%} from batch to batch), "
        f"{masking.predicted:.1%} predicted"
    )
    if masking.hidden_channels:
        text += f"; {masking.hidden_channels:.1%} of the channels are zero"
    return {
        "masks": f"{text}; over {masking.num_draws} batches of {masking.num_utterances} utterances "
        f"of {masking.num_frames} frames"
    }


def _update(explanation: Explanation) -> dict[str, str]:
    update = explanation.update
    utterances = count(update.utterances, "utterance")
    ends = " or ".join(f"`{name}` {value}" for name, value in update.may_end_before.items())
    run = (
        f"ends by {ends}; give `trainer.max_steps` for its cost"
        if ends
        else "`trainer.max_steps` leaves the number of updates open"
    )
    if update.updates is not None and update.audio_hours is not None:
        run = f"{count(update.updates, 'update')}, {duration(3600 * update.audio_hours)} of audio at most"
        run += f"; {ends} may end it before" if ends else ""
    rounded = ""
    if update.audio_seconds != update.nominal_seconds:
        rounded = f" in place of {update.nominal_seconds:,.5g} s: micro-batches cannot be distributed evenly"
    fused = f", {update.at_once} at once" if update.at_once > 1 else ""
    return {
        "an update": f"{update.processes} x {count(update.micro_batches, 'micro-batch')} (processes x accumulation)"
        f"{fused}, {update.audio_seconds:,.5g} s of audio at most{rounded}; of {utterances} of the greatest "
        f"length, {update.longest_seconds:,.5g} s with {update.predictions:,.0f} predictions",
        "the run": run,
    }


def _cost(explanation: Explanation) -> dict[str, str]:
    cost, rows = explanation.cost, {}
    if cost.flops is not None:
        run = "" if cost.run_flops is None else f", {cost.run_flops:.3g} of the run"
        rows["operations"] = f"{cost.flops:.4g} FLOP an update{run}: matrix products and convolutions, no layer dropped"
    if cost.memory is not None:
        sizes = {name: f"{size / 2**30:.2f}" for name, size in vars(cost.memory).items()}
        rows["memory of a device"] = (
            f"about {sizes['total']} GiB: parameters {sizes['parameters']}, gradients {sizes['gradients']}, optimizer "
            f"{sizes['optimizer']}, activations of a micro-batch {sizes['activations']}; without workspace"
        )
    if cost.device_hours is not None and cost.hours is not None:
        hours = f"{cost.device_hours:,.1f}" if cost.device_hours >= 1 else f"{cost.device_hours:.2g}"
        rows["time"] = (
            f"{hours} device-hours at {cost.speed:,g} s of audio a second and device, {duration(3600 * cost.hours)} on "
            f"{explanation.update.processes}"
        )
    elif cost.speed is None:
        rows["time"] = (
            "give `--speed`, which measures it on this machine, or its value, seconds of audio a second and device: "
            "`w2vlab fit` logs train/audio_seconds_per_second of all devices"
        )
    return rows


def _start(explanation: Explanation) -> dict[str, str]:
    start = explanation.start
    loss = f"the loss {start.loss}" if start.loss else "the loss"
    rows = {"chance": f"none: {loss} does not choose among candidates"}
    if start.nats is not None:
        rows["chance"] = (
            f"1 of {start.num_candidates} candidates{f' of {loss}' if start.loss else ''}; "
            f"ln {start.num_candidates} = {start.nats:.4f} nats = {start.bits:.4f} bits"
        )
    if start.blind is not None:
        why = _beside_chance(start, start.blind)
        rows["uninformed loss"] = f"{start.blind:.4f} nats a prediction, with all weights of {loss} at zero{why}"
    if start.terms is not None:
        terms = ", ".join(
            f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in start.terms.items()
        )
        rows["first step, on noise"] = f"{terms} {'nats ' if start.num_candidates else ''}a prediction, weighted"
    return rows


def _beside_chance(start: Start, blind: float) -> str:
    """Explains why the uninformed loss differs from that of guessing among the candidates."""
    judged = "as each candidate is judged true or false by itself, which costs ln 2"
    if math.isclose(blind, start.num_candidates * math.log(2), abs_tol=1e-4):
        return f": {start.num_candidates} x ln 2, {judged}; ln {start.num_candidates} is of a choice among them"
    if math.isclose(blind, 2 * math.log(2), abs_tol=1e-4):
        return f": 2 x ln 2, {judged}, the negatives together as much as the true one"
    return ""


def _schedule(explanation: Explanation) -> Table:
    table = _table("", *(f"{update:,}" for update in explanation.schedule_updates))
    for name, values in explanation.schedule.items():
        table.add_row(name, *("depends on the run" if value is None else f"{value:.4g}" for value in values))
    return table
