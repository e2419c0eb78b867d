"""Training speed of wav2vec 2.0 on a GPU, GPU utilization, and synchronizations of the host with the device.

    python -m benchmarks.gpu.gpu_step --config base --compile --peer transformers --json base.json
    python -m benchmarks.gpu.gpu_step --config large --compile --batch 16

An update is one micro-batch of noise, all utterances equally long: masks and distractors are drawn, forward, backward,
sums for the logs, gradient norm, fused AdamW. transformers' model has the same sizes, dropouts, precision and
optimizer, and its masks and distractors are drawn in advance by its own functions; LayerDrop is off in all. The models
run alternately, and results are medians over the rounds. Targets are the masked frames, called tokens in NVIDIA's
wav2vec 2.0: it publishes 37,610 a second for BASE on one A100 in bf16. The matrix rate is measured, and not
that of the data sheet.

A cold start compiles for minutes before anything is timed, so each step is printed, and results are written
as soon as they exist. `--tiny --device cpu` runs all of it in seconds, except what needs CUDA.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.gpu_contenders import Contender, ours, theirs, varied
from benchmarks.gpu.gpu_measures import calls_in, graphs_compiled, in_turns, matrix_rate, peak_memory, waits_in
from benchmarks.peers import LAYOUTS, Layout, audio, build_ours, build_transformers
from w2vlab.callbacks.compile import InductorWithFallback, compile_regions
from w2vlab.explain.cost import count_cost
from w2vlab.types import SAMPLE_RATE, AudioBatch

CONFIGS: dict[str, tuple[Layout, float, int]] = {
    "base": (LAYOUTS["base"], 15.625, 5),
    "large": (Layout(False, 512, 1024, 24, 16, 4096, 768), 20.0, 3),
    "large_lv60": (LAYOUTS["large"], 20.0, 3),
}
"""Layout, seconds of an utterance and utterances of a micro-batch, of configs/wav2vec2_<name>.yaml."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

NVIDIA = 37_609.84
"""Targets a second of NVIDIA's BASE on one A100-80GB in bf16; its README of wav2vec 2.0 calls them tokens."""

NEEDS_CUDA = "needs CUDA, and this runs on a CPU"


def measure(options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures everything that this device supports; passes all results so far to `save` after each measurement."""
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", file=sys.stderr, flush=True)

    layout, seconds, batch_size = CONFIGS[options.config]
    if options.tiny:
        layout, seconds, batch_size = LAYOUTS["tiny"], 1.0, 2
    seconds, batch_size = options.seconds or seconds, options.batch or batch_size
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    batch = audio(batch_size, seconds).to(device)
    compiler = InductorWithFallback()
    contenders: list[Contender] = []

    def add(name: str, build: Callable[[], nn.Module], begin: Callable[[Any], Callable[[], int]]) -> nn.Module:
        others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        torch.manual_seed(0)
        model = build().to(device).train()
        contender = Contender(name, begin(model))
        for _ in range(options.warm_up):
            contender()
        say(f"{name} is warm")
        if device.type == "cuda":
            contender.peak_bytes = peak_memory(contender, options.updates, others, device)
        contenders.append(contender)
        return model

    def start_ours(model: Any) -> Callable[[], int]:
        return ours(model, [batch], dtype)

    def start_compiled(model: Any) -> Callable[[], int]:
        compile_regions(model, compiler)
        return ours(model, [batch], dtype)

    rate = matrix_rate(256 if options.tiny else 8192, dtype, device)
    half, samples = dtype == torch.bfloat16, batch.num_samples[0]
    flops = count_cost(build_ours(layout), batch_size, samples, 1, None, half, shards=1).flops
    add("w2vlab", lambda: build_ours(layout), start_ours)
    compiled = add("w2vlab compiled", lambda: build_ours(layout), start_compiled) if options.compile else None
    if options.peer:
        add("transformers", lambda: build_transformers(layout), lambda model: theirs(model, batch.waveform, dtype))
    times = in_turns({contender.name: contender for contender in contenders}, options.rounds, options.updates, device)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "versions": {name: version(name) for name in ("torch", *(["transformers"] if options.peer else []))}
        | {"python": platform.python_version(), "cuda": torch.version.cuda},
        "settings": {
            "config": "tiny" if options.tiny else options.config,
            "precision": options.precision,
            "batch": batch_size,
            "seconds": seconds,
            "rounds": options.rounds,
            "updates": options.updates,
        },
        "matrix_flops_per_second": rate,
        "flops_per_update": flops,
        "runs": {c.name: _figures(c, times[c.name], batch.seconds, flops, rate) for c in contenders},
        "ratios": _ratios(times),
        "skipped": {},
    }
    save(result)
    say("timed in turns")
    if device.type == "cuda":
        result["waits"] = {c.name: waits_in(c, options.updates, device) for c in contenders if c.name != "transformers"}
        result["calls"] = {c.name: calls_in(c, 3, device) for c in contenders}
        save(result)
        say("waits and calls counted")
    else:
        result["skipped"] |= dict.fromkeys(("peak_bytes", "waits", "calls"), NEEDS_CUDA)
    if compiled is None:
        result["skipped"]["compilation"] = "needs --compile"
    elif not options.lengths:
        result["skipped"]["compilation"] = "--lengths is 0"
    else:
        result["compilation"] = _compilation(compiled, batch, options.lengths, dtype, compiler)
    save(result)
    return result


def _figures(
    contender: Contender, seconds: Sequence[float], audio_seconds: float, flops: int | None, rate: float
) -> dict[str, Any]:
    update = statistics.median(seconds)
    targets = statistics.fmean(contender.targets)
    is_ours = contender.name.startswith("w2vlab")
    return {
        "seconds_per_update": update,
        "fastest_and_slowest_round": [min(seconds), max(seconds)],
        "updates_per_second": 1 / update,
        "audio_seconds_per_second": audio_seconds / update,
        "targets_per_update": targets,
        "targets_per_second": targets / update,
        "model_flops_per_second": flops / update if flops and is_ours else None,
        "share_of_matrix_rate": flops / update / rate if flops and is_ours else None,
        "peak_bytes": contender.peak_bytes,
    }


def _ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The speedup of ours over each other one: by medians, and the smallest and largest of the rounds."""
    best = "w2vlab compiled" if "w2vlab compiled" in times else "w2vlab"
    found = {}
    for name, seconds in times.items():
        if name != best:
            rounds = [other / own for other, own in zip(seconds, times[best], strict=True)]
            medians = statistics.median(seconds) / statistics.median(times[best])
            found[f"{best} / {name}"] = {"ratio": medians, "least": min(rounds), "most": max(rounds)}
    return found


def _compilation(
    model: Any, batch: AudioBatch, lengths: int, dtype: torch.dtype, compiler: InductorWithFallback
) -> dict[str, Any]:
    """Trains on batches of other lengths and counts the compilations."""
    batches = varied(batch, 4 + lengths)
    step = ours(model, batches, dtype)
    # With and without padding, two sizes of each: after that, the compiled graphs must serve every length.
    for _ in range(4):
        step()
    graphs, all_graphs = compiler.num_graphs, graphs_compiled()
    for _ in batches[4:]:
        step()
    return {
        "graphs": graphs,
        "seconds": [[samples / SAMPLE_RATE for samples in other.num_samples] for other in batches[4:]],
        "graphs_for_other_lengths": compiler.num_graphs - graphs,
        "graphs_of_dynamo_for_other_lengths": graphs_compiled() - all_graphs,
    }


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
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "ms an update": lambda run: f"{1000 * run['seconds_per_update']:.4g}",
        "slowest round": lambda run: f"{1000 * run['fastest_and_slowest_round'][1]:.4g}",
        "updates a second": lambda run: f"{run['updates_per_second']:.4g}",
        "seconds of audio a second": lambda run: f"{run['audio_seconds_per_second']:.4g}",
        "targets a second": lambda run: f"{run['targets_per_second']:,.0f}",
        "model TFLOP/s": lambda run: _or_dash(run["model_flops_per_second"], lambda value: f"{value / 1e12:.3g}"),
        "share of the matrix rate": lambda run: _or_dash(run["share_of_matrix_rate"], lambda value: f"{value:.1%}"),
        "peak GiB": lambda run: _or_dash(run["peak_bytes"], lambda value: f"{value / 2**30:.2f}"),
    }
    lines += [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, run in result["runs"].items():
        lines.append(f"| {name} | {' | '.join(show(run) for show in columns.values())} |")
    lines.append("")
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


def _or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--config", choices=CONFIGS, default="base")
    parser.add_argument("--peer", choices=["transformers"], help="what to compare with")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--compile", action="store_true", help="also measure it compiled")
    parser.add_argument("--seconds", type=float, help="of an utterance")
    parser.add_argument("--batch", type=int, help="utterances")
    parser.add_argument("--updates", type=int, help="of a round")
    parser.add_argument("--rounds", type=int, help="that each runs, in turns")
    parser.add_argument("--lengths", type=int, default=6, help="other sizes to count compilations for; 0 for none")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, as they come")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark itself")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if cuda else "cpu")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        parser.error("`--device` must be cpu if there is no CUDA device, but is cuda.")
    if options.lengths < 0:
        parser.error(f"`--lengths` must not be negative, but is {options.lengths}.")
    for name in ("seconds", "batch", "updates", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            parser.error(f"`--{name}` must be above 0, but is {getattr(options, name)}.")
    few = (2, 2, 1) if options.tiny else (20, 7, 10)
    options.updates, options.rounds, options.warm_up = options.updates or few[0], options.rounds or few[1], few[2]
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and returns the results."""
    options = parse(arguments)

    def save(result: dict[str, Any]) -> None:
        if options.json:
            options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")

    result = measure(options, save)
    print(render(result))
    return result


if __name__ == "__main__":
    main()
