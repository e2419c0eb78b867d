"""Speed of reading audio, compared with others on the same files and crops, in one run.

    python -m benchmarks.data [--files 48] [--crop 15] [--rounds 5] [--formats wav,flac,opus,mp3,shar] [--json FILE]
    python -m benchmarks.data --resampling [--rates 44100,48000] [--json FILE]

The files of a corpus (festvox-ru, fetched if it is not there) are joined and cut to utterances of 5 to 35 s, and
written as wav and flac of 16 kHz, Opus of 48 kHz and mp3 of 44.1 kHz. Batches have utterances of similar length, in
crops of the length of the shortest, at most 15 s, at random places. Each round is an epoch with new crops, which every
reader reads in turn, in one process and one thread:

* w2vlab: `SpeechDataset`, as in training;
* plain: a PyTorch dataset with `soundfile.read` of the crop and `torchaudio.functional.resample`;
* Hugging Face datasets: the column `Audio(sampling_rate=16000)` and then the crop, as documented (the decoded file is
  cropped), and with `get_samples_played_in_range` of its decoder; needs `pip install datasets torchcodec`;
* of Shar: lhotse's `CutSet.from_shar` and `load_audio` of the crop.

Figures are seconds of audio per second of processor time, which other processes disturb less than wall time. Crops are
compared with the same samples of the full files as the same reader decodes them, without 1 ms at both ends, where a
reader that resamples a crop by itself lacks the samples around it.

`--resampling` compares resamplers on 15 s of speech, and measures their filters.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import files, readers, resamplers
from benchmarks.side_by_side import machine, write_json
from w2vlab.types import Seconds

OURS, PLAIN, HUGGING_FACE, RANGES, LHOTSE = "w2vlab", "plain", "datasets", "datasets, range", "lhotse"
TOLERANCE = 1e-3
"""Crops that differ by more from the full file are counted: 60 dB below full scale."""

EDGE = 16
"""Samples at both ends of a crop that are not compared."""


def take_turns(turns: dict[str, Callable[[int], None]], rounds: int) -> dict[str, dict[str, list[Seconds]]]:
    """Measures processor and wall time of everyone, round by round; a first round is not measured."""
    times: dict[str, dict[str, list[Seconds]]] = {name: {"processor": [], "wall": []} for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            wall, processor = time.perf_counter(), time.process_time()
            turn(number)
            if number:
                times[name]["processor"].append(time.process_time() - processor)
                times[name]["wall"].append(time.perf_counter() - wall)
    return times


def readers_of(kind: str, plan: readers.Plan, folder: Path) -> dict[str, readers.Reader]:
    """Returns the readers of a format; those of Hugging Face only if they are installed."""
    found = {OURS: readers.ours(plan)}
    if kind == files.SHAR:
        return found | {LHOTSE: readers.lhotse_shar(plan, folder)}
    found[PLAIN] = readers.plain(plan)
    if find_spec("datasets") is None or find_spec("torchcodec") is None:
        print("datasets or torchcodec is not installed, so Hugging Face datasets is left out.")
        return found
    return found | {HUGGING_FACE: readers.hugging_face(plan), RANGES: readers.hugging_face(plan, ranges=True)}


def wrong_crops(plan: readers.Plan, read: readers.Reader, read_full: readers.Reader) -> dict[str, float]:
    """Compares the crops of an epoch with the same samples of the full files."""
    full = [waveform for batch in read_full(0) for waveform in batch]
    windows = [window for number in range(len(plan.cuts)) for window in plan.windows(number, 0)]
    errors = []
    for crop, window, waveform in zip((row for batch in read(0) for row in batch), windows, full, strict=True):
        expected = waveform[window.start :][: len(crop)]
        errors.append(float((crop[: len(expected)] - expected)[EDGE:-EDGE].abs().max()))
    return {"crops": len(errors), "wrong": sum(error > TOLERANCE for error in errors), "largest": max(errors)}


def _exhaust(read: Callable[[int], Iterator[Tensor]]) -> Callable[[int], None]:
    def turn(epoch: int) -> None:
        for _ in read(epoch):
            pass

    return turn


def measure_reading(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all formats, and prints a table."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = list(files.read_utterances(options.corpus, options.files, options.shortest, options.longest))
        print("| format | reader | audio s per processor s | w2vlab is | wrong crops (largest error) |")
        print("|---|---|---|---|---|")
        for kind in options.formats.split(","):
            source = folder / kind
            if kind == files.SHAR:
                paths = files.write_files(utterances, "flac", folder / "of_shar")
                files.write_shar(paths, source)
            else:
                files.write_files(utterances, kind, source)
            plan = readers.make_plan(source, folder / "cache", options.batch, options.crop)
            figures[kind] = _measure_format(kind, plan, source, options.rounds)
    return figures


def _measure_format(kind: str, plan: readers.Plan, source: Path, rounds: int) -> dict[str, Any]:
    found = readers_of(kind, plan, source)
    full_readers = readers_of(kind, plan.of_full_files(), source)
    times = take_turns({name: _exhaust(read) for name, read in found.items()}, rounds)
    audio = [plan.seconds(epoch) for epoch in range(1, rounds + 1)]
    figures: dict[str, Any] = {}
    for name, read in found.items():
        ratios = {
            clock: sorted(a / b for a, b in zip(times[name][clock], times[OURS][clock], strict=True))
            for clock in ("processor", "wall")
        }
        figures[name] = {
            "seconds": times[name],
            "audio_per_processor_second": sum(audio) / sum(times[name]["processor"]),
            "ours_is_times_as_fast": {clock: statistics.median(values) for clock, values in ratios.items()},
            "ratios": ratios["processor"],
            # lhotse's order is that of the shards; the time stamps of an mp3 begin after the delay of its decoder.
            "comparison": None if name in (LHOTSE, RANGES) else wrong_crops(plan, read, full_readers[name]),
        }
        values, check = figures[name], figures[name]["comparison"]
        ratio = f"{values['ours_is_times_as_fast']['processor']:.2f} ({ratios['processor'][0]:.2f} to "
        ratio += f"{ratios['processor'][-1]:.2f}), wall {values['ours_is_times_as_fast']['wall']:.2f}"
        print(
            f"| {kind} | {name} | {values['audio_per_processor_second']:.0f} | {'' if name == OURS else ratio} | "
            + (f"{check['wrong']} of {check['crops']} ({check['largest']:.0e}) |" if check else "not compared |"),
            flush=True,
        )
    return figures


def measure_resampling(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all rates, and prints a table."""
    figures: dict[str, Any] = {}
    (speech,) = files.read_utterances(options.corpus, 1, options.crop, options.crop)
    print(
        "| rate (Hz) | resampler | ms for 15 s | w2vlab is | change up to 6 kHz (dB) | alias (dB) | from torchaudio |"
    )
    print("|---|---|---|---|---|---|---|")
    for rate in map(int, options.rates.split(",")):
        audio = torch.nn.functional.interpolate(
            torch.from_numpy(speech)[None, None], scale_factor=rate / 16_000, mode="linear"
        )[0, 0].numpy()
        compared = resamplers.resamplings(rate)
        turns = {name: _repeated(resample, audio) for name, resample in compared.items()}
        times = take_turns(turns, options.rounds)
        expected = compared[resamplers.TORCHAUDIO](audio)
        figures[str(rate)] = {}
        for name, resample in compared.items():
            pairs = zip(times[name]["processor"], times[resamplers.OURS]["processor"], strict=True)
            result = resample(audio)
            length = min(len(result), len(expected))
            figures[str(rate)][name] = found = {
                "milliseconds": 1000 * statistics.median(times[name]["processor"]) / REPEATS,
                "ours_is_times_as_fast": statistics.median(theirs / own for theirs, own in pairs),
                "ripple": resamplers.ripple(resample, rate),
                "alias": resamplers.rejection(resample, rate),
                "deviation": float(np.abs(result[:length] - expected[:length]).max()),
            }
            print(
                f"| {rate} | {name} | {found['milliseconds']:.2f} | {found['ours_is_times_as_fast']:.2f} | "
                f"{found['ripple']:.3f} | {found['alias']:.1f} | {found['deviation']:.0e} |",
                flush=True,
            )
    return figures


REPEATS = 10
"""Calls of a resampler in a turn."""


def _repeated(resample: resamplers.Resampling, audio: resamplers.Audio) -> Callable[[int], None]:
    def turn(_: int) -> None:
        for _ in range(REPEATS):
            resample(audio)

    return turn


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else list(args)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", default="festvox-ru", help="a sample corpus, or a folder of files of 16 kHz")
    parser.add_argument("--files", type=int, default=48, help="number of utterances")
    parser.add_argument("--shortest", type=float, default=5.0, help="length of the shortest, in seconds")
    parser.add_argument("--longest", type=float, default=35.0, help="length of the longest, in seconds")
    parser.add_argument("--crop", type=float, default=15.0, help="longest crop, in seconds")
    parser.add_argument("--batch", type=int, default=8, help="utterances in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="measured epochs of each reader")
    parser.add_argument("--formats", default="wav,flac,opus,mp3,shar")
    parser.add_argument("--resampling", action="store_true", help="compare resamplers instead of readers")
    parser.add_argument(
        "--rates", default="8000,11025,22050,24000,32000,44100,48000", help="sampling rates of the input"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.data", *args]), **machine()}
    figures["resampling" if options.resampling else "reading"] = (
        measure_resampling(options) if options.resampling else measure_reading(options)
    )
    write_json(options.json, figures)
    return figures
