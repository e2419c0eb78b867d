"""Features of real speech compared with transformers' `Wav2Vec2Model`: the same weights and files, in one run.

    python -m benchmarks.features [--minutes 60] [--dtype float32|bfloat16] [--threads N] [--rounds N] [--json FILE]
    python -m benchmarks.features --codes [--minutes 60]

A folder of transformers with random weights is written and loaded by both. The files are those of a corpus (festvox-ru,
fetched if it is not there), in the order of their names, until they are as long as asked for; they are read before the
clock starts. Each round is a part of them, with about as much audio as the others, that every competitor computes in
turn: ours file by file, transformers file by file without padding (`transformers`), and in batches of similar length
with an attention mask (`transformers, padded`). The peer of the ratio is the faster one of the two. Memory is the peak
beyond that of the loaded model with the audio. The first file's features are compared. Linux only.

`--codes` computes the codes of a single file (the corpus, joined), first of a tenth of its length and then whole, each
in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import w2vlab
from benchmarks import peers
from benchmarks.memory import status_gib
from benchmarks.side_by_side import Measurement, answer, machine, matrix_rate, take_turns, write_json
from w2vlab.data.audio.audio_files import AudioFile
from w2vlab.data.corpora.listing import list_entries
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.tally import Tally
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.files import cache_root

OURS, PEER, PADDED = "w2vlab", "transformers", "transformers, padded"
PADDED_SECONDS = 60
"""Audio in a batch of the padded peer, including padding."""


def read_speech(corpus: str, minutes: float) -> list[Tensor]:
    """Reads files of 16 kHz, each `(1, S)`, until they are `minutes` long; the last one is cut."""
    left = round(minutes * 60 * SAMPLE_RATE)
    waveforms = []
    for entry in list_entries(fetch(corpus, cache_root(None)), Tally()):
        with AudioFile(entry.paths[0]) as file:
            assert file.sampling_rate == SAMPLE_RATE, "this benchmark does not resample"
            available = file.count_samples() if file.num_samples is None else file.num_samples
            audio = torch.from_numpy(file.read(0, min(left, available)).mean(axis=1))
        waveforms.append(audio[None])
        left -= len(audio)
        if left < SAMPLE_RATE:
            return waveforms
    raise ValueError(f"`minutes` must be at most the length of {corpus}, but is {minutes:g}.")


def parts_of(waveforms: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Splits files into `count` parts of about as much audio."""
    total = sum(waveform.shape[1] for waveform in waveforms)
    parts: list[list[Tensor]] = [[] for _ in range(count)]
    done = 0
    for waveform in waveforms:
        parts[min(count - 1, done * count // total)].append(waveform)
        done += waveform.shape[1]
    return parts


def padded_batches(waveforms: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches `(B, S)` of similar length and their attention masks."""
    group: list[Tensor] = []
    for waveform in sorted(waveforms, key=lambda waveform: waveform.shape[1]):
        if group and (len(group) + 1) * waveform.shape[1] > PADDED_SECONDS * SAMPLE_RATE:
            yield _padded(group)
            group = []
        group.append(waveform)
    yield _padded(group)


def _padded(group: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    batch = torch.nn.utils.rnn.pad_sequence([waveform[0] for waveform in group], batch_first=True)
    lengths = torch.tensor([waveform.shape[1] for waveform in group])
    return batch, (torch.arange(batch.shape[1]) < lengths[:, None]).long()


def competitor(name: str, folder: Path, dtype: torch.dtype) -> Callable[[Sequence[Tensor]], Tensor]:
    """Returns what computes the features of files and returns those of the last one, `(1, T, D)`."""
    if name == OURS:
        model = w2vlab.load(folder, dtype=dtype)

        def ours(waveforms: Sequence[Tensor]) -> Tensor:
            features = torch.empty(0)
            for waveform in waveforms:
                features = model.features(waveform)
            return features

        return ours
    from transformers import Wav2Vec2Model

    peer: Any = Wav2Vec2Model.from_pretrained(folder, dtype=dtype)
    peer.eval()

    def theirs(waveforms: Sequence[Tensor]) -> Tensor:
        features = torch.empty(0)
        with torch.inference_mode():
            if name == PADDED:
                for batch, mask in padded_batches(waveforms):
                    features = peer(batch.to(dtype), attention_mask=mask).last_hidden_state
            else:
                for waveform in waveforms:
                    features = peer(waveform.to(dtype)).last_hidden_state
        return features[-1:]

    return theirs


class Watched:
    """Computes a part at each call, and records the peak of memory beyond that before the first one."""

    def __init__(self, compute: Callable[[Sequence[Tensor]], Tensor], parts: Sequence[Sequence[Tensor]]) -> None:
        self.compute, self.parts = compute, iter(parts)
        self.before: float | None = None

    def __call__(self) -> None:
        """Computes the next part."""
        if self.before is None:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
            self.before = status_gib("VmRSS")
        self.compute(next(self.parts))

    def growth(self) -> float:
        """Returns the growth in GiB."""
        assert self.before is not None, "it has been called"
        return status_gib("VmHWM") - self.before


def serve(options: argparse.Namespace) -> None:
    """Runs one competitor."""
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    name, folder = options.serve
    if options.codes:
        waveform = torch.cat(read_speech(options.corpus, options.minutes), dim=1)
        torch.manual_seed(0)
        model = peers.build_ours(peers.LAYOUTS[options.model]).to(dtype)
        watched = Watched(lambda part: model.codes(part[0]), [[waveform]])
    else:
        waveforms = read_speech(options.corpus, options.minutes)
        compute = competitor(name, Path(folder), dtype)
        torch.save(compute(waveforms[:1]).float(), Path(folder, f"{name}.pt"))
        watched = Watched(compute, parts_of(waveforms, options.rounds))
    answer(watched, watched.growth)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["base", "tiny"], default="base")
    parser.add_argument("--corpus", default="festvox-ru", help="a sample corpus, or a folder of files of 16 kHz")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=12, help="parts that the files are split into")
    parser.add_argument("--codes", action="store_true", help="memory of the codes of one long file")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.serve:
        serve(options)
        return {}
    command = " ".join(["python -m benchmarks.features", *args])
    figures: dict[str, Any] = {"command": command, **machine(), "matrix_gflops": matrix_rate() / 1e9}
    base = ["-m", "benchmarks.features", *args]
    figures |= _codes(base, options) if options.codes else _features(base, options)
    write_json(options.json, figures)
    return figures


def _codes(base: list[str], options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Measurement] = {}
    print("| minutes of the file | seconds | memory beyond model and audio (MiB) |\n|---|---|---|")
    for minutes in (options.minutes / 10, options.minutes):
        command = [*base, f"--minutes={minutes}", "--serve", OURS, ""]
        found[f"{minutes:g}"] = take_turns({OURS: command}, {}, 0, 1)[OURS]
        print(f"| {minutes:g} | {found[f'{minutes:g}'].median:.1f} | {1024 * found[f'{minutes:g}'].peak_gib:.0f} |")
    return {"mib_of_codes": {minutes: 1024 * value.peak_gib for minutes, value in found.items()}}


def _features(base: list[str], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        peers.build_transformers(peers.LAYOUTS[options.model]).wav2vec2.save_pretrained(folder)
        commands: dict[str, Sequence[str]] = {name: [*base, "--serve", name, folder] for name in (OURS, PEER, PADDED)}
        measured = take_turns(commands, {}, 0, options.rounds)
        first = {name: torch.load(Path(folder, f"{name}.pt"), weights_only=True) for name in (OURS, PEER)}
    deviation = float((first[OURS] - first[PEER]).abs().max())
    ours = measured[OURS]
    peer = min((PEER, PADDED), key=lambda name: sum(measured[name].seconds))
    pairs = sorted(b / a for a, b in zip(ours.seconds, measured[peer].seconds, strict=True))
    figures = {
        "seconds": {name: value.seconds for name, value in measured.items()},
        "peak_gib": {name: value.peak_gib for name, value in measured.items()},
        "peer": peer,
        "speed_ratio": sum(measured[peer].seconds) / sum(ours.seconds),
        "speed_ratio_of_pairs": [pairs[0], pairs[len(pairs) // 2], pairs[-1]],
        "memory_ratio": ours.peak_gib / max(measured[peer].peak_gib, 1e-9),
        "largest_deviation": deviation,
    }
    print(
        f"{options.model}, {options.minutes:g} minutes of {options.corpus}, {options.dtype}, {options.threads} threads"
    )
    print("| | seconds | audio s/s | memory beyond model and audio (MiB) |\n|---|---|---|---|")
    for name, value in measured.items():
        total = sum(value.seconds)
        print(f"| {name} | {total:.1f} | {60 * options.minutes / total:.1f} | {1024 * value.peak_gib:.0f} |")
    print(
        f"| {peer} / ours | {figures['speed_ratio']:.2f} times as fast (round by round {pairs[0]:.2f} to "
        f"{pairs[-1]:.2f}) | | {figures['memory_ratio']:.2f} of it |"
    )
    print(f"Largest deviation of the first file's features: {deviation:.1e}")
    return figures


if __name__ == "__main__":
    main()
