"""Tables of the GPU benchmark in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NVIDIA = 37_609.84
"""Targets a second of NVIDIA's BASE on one A100-80GB in bf16; its README of wav2vec 2.0 calls them tokens."""


def render(result: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    settings, versions = result["settings"], result["versions"]
    lines = [
        f"{result['date']}, {result['device']}, "
        + ", ".join(f"{name} {number}" for name, number in versions.items() if number),
        "",
        f"wav2vec 2.0 {settings['config']} in {settings['precision']}: {settings['batch']} utterances of "
        f"{settings['seconds']} s an update, medians of {settings['rounds']} rounds of {settings['updates']} updates.",
        f"Square matrix products on this device: {result['matrix_flops_per_second'] / 1e12:.3g} TFLOP/s.",
        "",
    ]
    lines += [*table("", RUN_COLUMNS, result["runs"]), ""]
    for name, found in result["ratios"].items():
        lines.append(
            f"* {name}: {found['ratio']:.2f} times as fast ({found['least']:.2f} to {found['most']:.2f} by round)"
        )
    if settings["config"] == "base" and settings["precision"] == "bf16":
        best = max(run["targets_per_second"] for name, run in result["runs"].items() if name != "transformers")
        lines.append(
            f"* {best / NVIDIA:.2f} times the {NVIDIA:,.0f} targets a second that NVIDIA publishes for one A100"
        )
    for name, found in result.get("waits", {}).items():
        reason = "" if found["reason"] is None else f"; then: {found['reason']}"
        lines.append(
            f"* {name}: {found['done_without']} of {found['updates']} updates without a wait for the device{reason}"
        )
    for name, found in result.get("calls", {}).items():
        lines.append(f"* {name}, an update: " + ", ".join(f"{count:g} {call}" for call, count in found.items()))
    if "compilation" in result:
        found = result["compilation"]
        lines.append(
            f"* {found['graphs']} graphs compiled, then {found['graphs_for_other_lengths']} more for "
            f"{len(found['seconds'])} batches of other sizes and lengths"
        )
    lines += [f"* {name}: not measured, {reason}" for name, reason in result["skipped"].items()]
    return "\n".join(lines)


def or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


def table(corner: str, columns: Mapping[str, Callable[[Any], str]], rows: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table, a row for each of `rows`."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    return lines + [f"| {name} | {' | '.join(show(row) for show in columns.values())} |" for name, row in rows.items()]


RUN_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "ms an update": lambda run: f"{1000 * run['seconds_per_update']:.4g}",
    "slowest round": lambda run: f"{1000 * run['fastest_and_slowest_round'][1]:.4g}",
    "updates a second": lambda run: f"{run['updates_per_second']:.4g}",
    "seconds of audio a second": lambda run: f"{run['audio_seconds_per_second']:.4g}",
    "targets a second": lambda run: f"{run['targets_per_second']:,.0f}",
    "model TFLOP/s": lambda run: or_dash(run["model_flops_per_second"], lambda value: f"{value / 1e12:.3g}"),
    "share of the matrix rate": lambda run: or_dash(run["share_of_matrix_rate"], lambda value: f"{value:.1%}"),
    "peak GiB": lambda run: or_dash(run["peak_bytes"], lambda value: f"{value / 2**30:.2f}"),
}
"""Columns of a table of contenders."""
