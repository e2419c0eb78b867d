"""The results of the GPU check as Markdown, with the targets beside: `python -m benchmarks.gpu.report gpu.json`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.gpu_tables import RUN_COLUMNS, or_dash, table

TARGETS = {
    "step of BASE, seconds of audio a second": 6600,
    "shipped recipe sustained, seconds of audio a second": 5500,
    "share of waiting for data": 0.02,
    "speed over transformers": 3.0,
}
"""At least; the share at most. For one H200, whose rate of products of 8192 x 8192 is 770 to 800 TFLOP/s."""

AT_MOST = ("share of waiting for data",)

OURS, COMPILED = "w2vlab", "w2vlab compiled"


def render(results: Mapping[str, Any]) -> str:
    """Returns all tables."""
    parts: dict[str, Any] = {name: part.get("result", {}) for name, part in results["parts"].items()}
    about = "rehearsal with tiny shapes on a CPU: these figures say nothing" if results["rehearsal"] else "GPU check"
    lines = [
        f"{results['date'][:10]}, {about}; {results['seconds']:.0f} s of at most {results['minutes']:g} minutes.",
        "",
    ]
    lines += [*_machine(parts.get("machine", {})), *_targets(parts)]
    for name in ("base", "large"):
        lines += _steps(name, parts.get(name, {}))
    lines += _sustained({name: parts[name] for name in ("shipped", "fused") if name in parts})
    for name in ("base", "large"):
        lines += _profile(name, parts.get(name, {}))
    lines += [*_strategies(parts.get("strategies", {})), *_kernels(parts.get("kernels", {}))]
    lines += [*_tests(parts.get("tests", {})), *_parts(results["parts"])]
    return "\n".join(lines).rstrip()


def _machine(found: Mapping[str, Any]) -> list[str]:
    if "device" not in found:
        return []
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    lines = [f"{found['device']}, driver {found['driver'] or 'none'}, {found['cores']} cores; {versions}.", ""]
    if "matrix_flops_per_second" in found:
        size = found["matrix_size"]
        rate = found["matrix_flops_per_second"] / 1e12
        lines.append(f"* products of {size} x {size} in bfloat16: {rate:.3g} TFLOP/s")
    for name, text in (
        ("copy_bytes_per_second", "copies on the device, read and written"),
        ("host_to_device_bytes_per_second", "copies from pinned memory"),
    ):
        if name in found:
            lines.append(f"* {text}: {found[name] / 1e12:.3g} TB/s")
    return [*lines, ""]


def measured(parts: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns what is compared with `TARGETS`; None if it was not measured."""
    base = parts.get("base", {})
    runs = [size["runs"] for size in base.values()]
    own = [run["audio_seconds_per_second"] for found in runs for name, run in found.items() if name != "transformers"]
    ratios = [
        found["transformers"]["seconds_per_update"]
        / min(run["seconds_per_update"] for name, run in found.items() if name != "transformers")
        for found in runs
        if "transformers" in found
    ]
    fits = [found for name in ("shipped", "fused") if "audio_seconds_per_second" in (found := parts.get(name, {}))]
    fastest = max(fits, key=lambda found: found["audio_seconds_per_second"], default=None)
    values = (
        max(own, default=None),
        None if fastest is None else fastest["audio_seconds_per_second"],
        None if fastest is None else fastest["share_of_waiting"],
        max(ratios, default=None),
    )
    return dict(zip(TARGETS, values, strict=True))


def _targets(parts: Mapping[str, Any]) -> list[str]:
    columns: dict[str, Callable[[Any], str]] = {
        "measured": lambda row: or_dash(row[1], lambda value: f"{value:.4g}"),
        "target": lambda row: f"{'at most' if row[0] in AT_MOST else 'at least'} {TARGETS[row[0]]:g}",
        "reached": lambda row: or_dash(row[1], lambda value: "yes" if _reached(row[0], value) else "no"),
    }
    return [*table("best of all sizes", columns, {name: (name, value) for name, value in measured(parts).items()}), ""]


def _reached(name: str, value: float) -> bool:
    return value <= TARGETS[name] if name in AT_MOST else value >= TARGETS[name]


def _steps(config: str, sizes: Mapping[str, Any]) -> list[str]:
    rows = {
        f"{run}, {found['settings']['batch']} x {found['settings']['seconds']:g} s ({size})": (found, run)
        for size, found in sizes.items()
        for run in found["runs"]
    }
    columns: dict[str, Callable[[Any], str]] = {
        name: lambda row, show=show: show(row[0]["runs"][row[1]])
        for name, show in RUN_COLUMNS.items()
        if name not in ("updates a second", "targets a second")
    }
    columns["over transformers"] = lambda row: or_dash(_over_peer(*row), lambda value: f"{value:.2f}")
    columns["synchronizations"] = lambda row: or_dash(
        row[0].get("waits", {}).get(row[1]), lambda found: "0" if found["reason"] is None else f"yes: {found['reason']}"
    )
    columns["recompilations"] = lambda row: or_dash(
        row[0].get("compilation") if row[1] == COMPILED else None, lambda found: str(found["graphs_for_other_lengths"])
    )
    return [*table(config.upper(), columns, rows), ""] if rows else []


def _over_peer(found: Mapping[str, Any], run: str) -> float | None:
    peer = found["runs"].get("transformers")
    return None if peer is None else peer["seconds_per_update"] / found["runs"][run]["seconds_per_update"]


def _sustained(fits: Mapping[str, Any]) -> list[str]:
    columns: dict[str, Callable[[Any], str]] = {
        "seconds": lambda found: f"{found['seconds']:.1f}",
        "updates": lambda found: f"{found['updates']}",
        "seconds of audio a second": lambda found: f"{found['audio_seconds_per_second']:,.0f}",
        "share of waiting": lambda found: f"{found['share_of_waiting']:.2%}",
        "limited by": lambda found: _limits(found.get("throughput", {})),
        "workers": lambda found: f"{found['workers']}",
        "graphs compiled": lambda found: f"{found['graphs_compiled']}",
        "peak GiB": lambda found: or_dash(found["peak_bytes"], lambda value: f"{value / 2**30:.2f}"),
    }
    rows = {
        " ".join(["BASE's recipe", *found["options"]]): found for found in fits.values() if "share_of_waiting" in found
    }
    skipped = [f"* {name}: not measured, {found['skipped']}" for name, found in fits.items() if "skipped" in found]
    return [*(table("`w2vlab fit`", columns, rows) if rows else []), *skipped, ""]


def _limits(throughput: Mapping[str, float]) -> str:
    """Returns the shares of the time by what limits the speed, the greatest first."""
    shares = {name.partition("limited_by_")[2]: share for name, share in throughput.items() if "limited_by_" in name}
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])) or "-"


def _profile(config: str, sizes: Mapping[str, Any]) -> list[str]:
    runs = {
        f"{run}, {size}": profile for size, found in sizes.items() for run, profile in found.get("profile", {}).items()
    }
    if not runs:
        return []
    first = next(iter(runs.values()))
    columns: dict[str, Callable[[str], str]] = {
        name: lambda row, profile=profile: _share(row, profile) for name, profile in runs.items()
    }
    rows = {row: row for row in first["milliseconds"]}
    lines = table(f"{config.upper()}: ms, of them backward", columns, rows)
    of_all: dict[str, Callable[[str], str]] = {
        name: lambda row, profile=profile: or_dash(profile[row], lambda value: f"{value:.3g}")
        for name, profile in runs.items()
    }
    whole = {
        "any kernel": "busy_milliseconds",
        "none: gaps of the host": "idle_milliseconds",
        "an update": "milliseconds_of_update",
    }
    return [*lines, *table("", of_all, whole)[2:], ""]


def _share(row: str, profile: Mapping[str, Any]) -> str:
    return f"{profile['milliseconds'][row]:.2f}, {profile['backward_milliseconds'][row]:.2f}"


def _strategies(found: Mapping[str, Any]) -> list[str]:
    columns: dict[str, Callable[[Any], str]] = {
        "ms an update": lambda row: f"{1000 * row['seconds_per_update']:.4g}",
        "last loss": lambda row: f"{row['losses'][-1]:.6g}",
        "largest relative difference": lambda row: f"{row['largest_relative_difference']:.2g}",
        "sharded parameters": lambda row: f"{row['num_sharded']}",
    }
    return [*table("strategy, one device", columns, found), ""] if found else []


def _kernels(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    columns: dict[str, Callable[[Any], str]] = {
        name: lambda row, name=name: or_dash(row[name], lambda value: f"{value:.3g}")
        for name in next(iter(found.values()))
    }
    return [*table("attention, ms of both passes", columns, found), ""]


def _tests(found: Mapping[str, Any]) -> list[str]:
    if "passed" not in found:
        return []
    lines = [f"GPU tests: {found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped."]
    return [*lines, *(f"* failed: {name}" for name in found["names_of_failed"]), ""]


def _parts(parts: Mapping[str, Any]) -> list[str]:
    columns: dict[str, Callable[[Any], str]] = {
        "status": lambda part: part["status"],
        "seconds": lambda part: or_dash(part.get("seconds"), str),
        "limit": lambda part: or_dash(part.get("limit"), str),
        "error": lambda part: " ".join(part.get("error", "-").split()).replace("|", "/"),
    }
    return table("part", columns, parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables of a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="results of `scripts/gpu_check.sh`")
    options = parser.parse_args(arguments)
    print(render(json.loads(options.file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
