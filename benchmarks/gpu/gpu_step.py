"""Training speed of wav2vec 2.0 on a GPU, GPU utilization, and synchronizations of the host with the device.

    python -m benchmarks.gpu.gpu_step --config base --compile --peer transformers --json base.json
    python -m benchmarks.gpu.gpu_step --config large --compile --batch 16 --profile

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
from torch import Tensor, fx

from benchmarks.gpu.gpu_contenders import Contender, adamw, ours, theirs, varied
from benchmarks.gpu.gpu_measures import (
    calls_in,
    graphs_compiled,
    in_turns,
    matrix_rate,
    peak_memory,
    seconds_each,
    waits_in,
)
from benchmarks.gpu.gpu_profile import gaps, profile_by_part
from benchmarks.gpu.gpu_tables import render
from benchmarks.peers import LAYOUTS, Layout, audio, build_ours, build_transformers
from w2vlab.callbacks.compile import InductorWithFallback, compile_regions
from w2vlab.modules.counting.flops import count_flops
from w2vlab.modules.counting.without_values import skeleton
from w2vlab.types import SAMPLE_RATE, AudioBatch

CONFIGS: dict[str, tuple[Layout, float, int]] = {
    "base": (LAYOUTS["base"], 15.625, 5),
    "large": (Layout(False, 512, 1024, 24, 16, 4096, 768), 20.0, 3),
    "large_lv60": (LAYOUTS["large"], 20.0, 3),
}
"""Layout, seconds of an utterance and utterances of a micro-batch, of configs/wav2vec2_<name>.yaml."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

NEEDS_CUDA = "needs CUDA, and this runs on a CPU"


class _PyTorchsKernels(InductorWithFallback):
    """Leaves kernels PyTorch's own, to try the benchmark itself without the minutes that Inductor takes."""

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.num_graphs += 1
        compiled: Callable[..., Any] = torch._dynamo.lookup_backend("aot_eager")(graph, inputs)
        return compiled


def measure(
    options: argparse.Namespace,
    save: Callable[[dict[str, Any]], None],
    kept: dict[str, Contender] | None = None,
) -> dict[str, Any]:
    """Measures everything that this device supports.

    Args:
        options: Those of the command line.
        save: Gets all results so far after each measurement, the most valuable first.
        kept: The models by name; what is in it is used again, and what is built is added.
    """
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", file=sys.stderr, flush=True)

    layout, seconds, batch_size = CONFIGS[options.config]
    if options.tiny:
        layout, seconds, batch_size = LAYOUTS["tiny"], 1.0, 2
    seconds, batch_size = options.seconds or seconds, options.batch or batch_size
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    batch = audio(batch_size, seconds).to(device)
    kept = {} if kept is None else kept
    rate = matrix_rate(256 if options.tiny else 8192, dtype, device)
    own = kept["w2vlab"] = kept.get("w2vlab") or _build("w2vlab", layout, options)
    flops = count_flops(skeleton(own.model), batch_size, batch.num_samples[0])
    times: dict[str, list[float]] = {}
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
        "runs": {},
        "ratios": {},
        "skipped": {},
    }

    def run(name: str) -> Contender:
        """Warms a contender up on this batch, and times it alone."""
        contender = kept.get(name) or _build(name, layout, options)
        kept[name] = contender
        if name == "transformers":
            contender.begin(theirs(contender.model, batch.waveform, dtype, contender.optimizer))
        else:
            contender.begin(ours(contender.model, [batch], dtype, contender.optimizer))
        for _ in range(options.warm_up):
            contender()
        say(f"{name} is warm")
        if device.type == "cuda":
            contender.peak_bytes = peak_memory(contender, options.updates, contender.resident_bytes, device)
        times[name] = [seconds_each(contender, options.updates, device)]
        result["runs"][name] = _figures(contender, times[name], batch.seconds, flops, rate)
        save(result)
        return contender

    names = ["w2vlab", *(["transformers"] if options.peer else []), *(["w2vlab compiled"] if options.compile else [])]
    contenders = {name: run(name) for name in names}
    times = in_turns(contenders, options.rounds, options.updates, device)
    for name, contender in contenders.items():
        result["runs"][name] = _figures(contender, times[name], batch.seconds, flops, rate)
    result["ratios"] = _ratios(times)
    save(result)
    say("timed in turns")
    of_ours = {name: contender for name, contender in contenders.items() if name != "transformers"}
    if device.type == "cuda":
        result["waits"] = {name: waits_in(contender, options.updates, device) for name, contender in of_ours.items()}
        save(result)
        say("waits counted")
    else:
        result["skipped"] |= dict.fromkeys(("peak_bytes", "waits"), NEEDS_CUDA)
    if options.profile:
        result["profile"] = {}
        for name, contender in of_ours.items():
            found = profile_by_part(contender.model, contender, 1 if options.tiny else 2, device)
            result["profile"][name] = found | gaps(found, result["runs"][name]["seconds_per_update"])
            save(result)
        say("profiled")
    elif device.type == "cuda":
        result["calls"] = {name: calls_in(contender, 3, device) for name, contender in contenders.items()}
        save(result)
        say("calls counted")
    else:
        result["skipped"]["calls"] = NEEDS_CUDA
    if not options.compile:
        result["skipped"]["compilation"] = "needs --compile"
    elif not options.lengths:
        result["skipped"]["compilation"] = "--lengths is 0"
    else:
        result["compilation"] = _compilation(contenders["w2vlab compiled"], batch, options, dtype)
    save(result)
    return result


def _build(name: str, layout: Layout, options: argparse.Namespace) -> Contender:
    torch.manual_seed(0)
    model = build_transformers(layout) if name == "transformers" else build_ours(layout)
    model = model.to(options.device).train()
    contender = Contender(name, model, adamw(model))
    if name == "w2vlab compiled":
        on_trial = options.tiny and options.device == "cpu"
        contender.compiler = _PyTorchsKernels() if on_trial else InductorWithFallback()
        compile_regions(model, contender.compiler)
    return contender


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
    contender: Contender, batch: AudioBatch, options: argparse.Namespace, dtype: torch.dtype
) -> dict[str, Any]:
    """Trains on batches of other lengths and counts the compilations."""
    compiler = contender.compiler
    assert compiler is not None, "it is compiled"
    batches = varied(batch, 4 + options.lengths, padded=not options.cropped)
    step = ours(contender.model, batches, dtype, contender.optimizer)
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
    parser.add_argument("--warm-up", type=int, help="updates before anything is timed")
    parser.add_argument("--lengths", type=int, default=6, help="other sizes to count compilations for; 0 for none")
    parser.add_argument("--cropped", action="store_true", help="these without padding, as BASE's recipe crops them")
    parser.add_argument("--profile", action="store_true", help="also the time by part of the model")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, as they come")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark itself")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if cuda else "cpu")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        parser.error("`--device` must be cpu if there is no CUDA device, but is cuda.")
    if options.lengths < 0:
        parser.error(f"`--lengths` must not be negative, but is {options.lengths}.")
    for name in ("seconds", "batch", "updates", "rounds", "warm_up"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            parser.error(f"`--{name.replace('_', '-')}` must be above 0, but is {getattr(options, name)}.")
    few = (2, 2, 1) if options.tiny else (20, 7, 10)
    options.updates, options.rounds = options.updates or few[0], options.rounds or few[1]
    options.warm_up = options.warm_up or few[2]
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
