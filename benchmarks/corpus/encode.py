"""`w2vlab encode` compared with a plain loop over transformers' forward pass, and its memory over many files.

    python -m benchmarks.corpus.encode [--minutes 10] [--layer 6] [--processes 1] [--threads N] [--rounds N]
    python -m benchmarks.corpus.encode --memory [--utterances 1000 10000 100000]

Speed: a folder of transformers with random weights of BASE's shape is encoded by both, in float32. The files are those
of a corpus (festvox-ru, fetched if it is not there), in the order of their names, until they are as long as asked for.
Each competitor is a whole command, from its start to its last file on disk: `w2vlab encode` with the features of one
layer, of the last layer (contexts) and the codes; and a loop (`--loop`) that reads one file after the other by
soundfile, calls `Wav2Vec2Model` and saves its last hidden state by NumPy, or for the codes computes those of
`Wav2Vec2ForPreTraining` from the convolutions alone. The rounds of all competitors alternate. All use the same number
of threads in total: with `--processes 2`, ours has two processes with half of them each. The first file's features are
compared, and all codes.

Memory: the peak of a whole `w2vlab encode`, its scan of the corpus included, with a tiny model over generated manifests
of utterances of half a second in a few files. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks import peers
from benchmarks.side_by_side import machine, matrix_rate, write_json
from w2vlab.data.corpora.listing import list_entries
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.tally import Tally
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.files import cache_root

LAST, CODES = "features of the last layer", "codes"
LOOP, LOOP_OF_CODES = "loop over transformers", "loop over transformers, codes"


def choose_files(corpus: str, minutes: float) -> list[Path]:
    """Returns the files of a corpus, in order, until they are `minutes` long."""
    files, left = [], 60 * minutes
    for entry in list_entries(fetch(corpus, cache_root(None)), Tally()):
        files.append(entry.paths[0])
        left -= soundfile.info(entry.paths[0]).duration
        if left < 0:
            return files
    raise ValueError(f"`minutes` must be less than the length of {corpus}, but is {minutes:g}.")


def write_manifest(files: Sequence[Path], path: Path) -> None:
    """Writes a manifest of fairseq."""
    root = Path(os.path.commonpath([file.parent for file in files]))
    lines = [f"{file.relative_to(root)}\t{soundfile.info(file).frames}" for file in files]
    path.write_text("\n".join([str(root), *lines]) + "\n", encoding="utf-8")


def loop(what: str, folder: Path, manifest: Path, out: Path) -> None:
    """Encodes the files of a manifest as a script without a framework does."""
    from transformers import Wav2Vec2ForPreTraining, Wav2Vec2Model

    model: Any = (Wav2Vec2ForPreTraining if what == "codes" else Wav2Vec2Model).from_pretrained(folder)
    model.eval()
    out.mkdir()
    root, *lines = manifest.read_text(encoding="utf-8").splitlines()
    for line in lines:
        name = line.partition("\t")[0]
        audio, rate = soundfile.read(Path(root, name), dtype="float32")
        assert rate == SAMPLE_RATE, "this benchmark does not resample"
        waveform = torch.from_numpy(audio)[None]
        with torch.inference_mode():
            frames = _codes(model, waveform) if what == "codes" else model(waveform).last_hidden_state[0]
        np.save(out / f"{Path(name).stem}.npy", frames.numpy())


def _codes(model: Any, waveform: torch.Tensor) -> torch.Tensor:
    """Returns the codes `(T, G)` of a model of transformers, which has no function for them."""
    latents = model.wav2vec2.feature_extractor(waveform).transpose(1, 2)
    _, normalized = model.wav2vec2.feature_projection(latents)
    scores = model.quantizer.weight_proj(normalized)[0]
    codes: torch.Tensor = scores.unflatten(1, (model.quantizer.num_groups, -1)).argmax(dim=2)
    return codes.to(torch.int16)


def encode_command(folder: Path, manifest: Path, out: Path, options: argparse.Namespace, *what: str) -> list[str]:
    """Returns the arguments of `w2vlab encode`."""
    cache = [] if options.cache is None else [f"--cache_dir={options.cache}"]
    return [
        *("-m", "w2vlab", "encode", str(folder), str(manifest), str(out), "--format=npy", "--accelerator=cpu"),
        *(f"--devices={options.processes}", f"--num_workers={options.workers}", *cache, *what),
    ]


def run(command: Sequence[str], threads: int) -> float:
    """Runs a command of `python`, and returns its seconds."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
    environment["TRANSFORMERS_VERBOSITY"] = "error"  # it reports that the quantizer is not used
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measures speed."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        torch.manual_seed(0)
        # The whole model: codes need the quantizer.
        peers.build_transformers(peers.LAYOUTS[options.model]).save_pretrained(root / "model")
        files = choose_files(options.corpus, options.minutes)
        minutes = sum(soundfile.info(file).duration for file in files) / 60
        write_manifest(files, root / "files.tsv")
        what = {
            f"features of layer {options.layer}": ("--what=features", f"--layers={options.layer}"),
            LAST: ("--what=features",),
            CODES: ("--what=codes",),
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*what, LOOP, LOOP_OF_CODES)}
        for number in range(options.rounds):
            for name, words in what.items():
                out = root / f"{name} {number}"
                command = encode_command(root / "model", root / "files.tsv", out, options, *words)
                seconds[name].append(run(command, max(1, options.threads // options.processes)))
            for name, kind in ((LOOP, "features"), (LOOP_OF_CODES, "codes")):
                given = (kind, root / "model", root / "files.tsv", root / f"loop {kind} {number}")
                seconds[name].append(
                    run(["-m", "benchmarks.corpus.encode", "--loop", *map(str, given)], options.threads)
                )
        ours, codes = (np.concatenate(list(_arrays(root / f"{name} 0"))) for name in (LAST, CODES))
        theirs = np.load(root / "loop features 0" / f"{files[0].stem}.npy")
        deviation = float(np.abs(ours[: len(theirs)] - theirs).max())
        their_codes = np.concatenate([np.load(root / "loop codes 0" / f"{file.stem}.npy") for file in files])
        agreement = float((codes == their_codes).mean())
    totals = {name: sum(turns) for name, turns in seconds.items()}
    ratios = {name: totals[LOOP_OF_CODES if name == CODES else LOOP] / totals[name] for name in what}
    print(
        f"{options.model}, {minutes:.1f} minutes of {options.corpus}, float32, {options.threads} threads, "
        f"{options.processes} processes of ours"
    )
    print("| | seconds | audio s/s | loop / ours |\n|---|---|---|---|")
    for name, total in totals.items():
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        print(f"| {name} | {total:.1f} | {60 * minutes * options.rounds / total:.1f} | {ratio} |")
    print(f"Largest deviation of the first file's features: {deviation:.1e}; equal codes: {100 * agreement:.3f} %")
    figures = {"minutes": minutes, "seconds": seconds, "speed_ratio": ratios}
    return figures | {"largest_deviation": deviation, "equal_codes": agreement}


def _arrays(folder: Path) -> Iterator[np.ndarray]:
    yield from map(np.load, sorted(folder.glob("*.npy")))


def write_many(folder: Path, utterances: int) -> Path:
    """Writes a manifest of lhotse with utterances of half a second in a few files."""
    files, each = 4, 0.5
    noise = np.random.default_rng(0)
    sources = []
    for number in range(files):
        path = folder / f"{number}.wav"
        if not path.exists():
            soundfile.write(path, 0.1 * noise.standard_normal(round(SAMPLE_RATE * each)), SAMPLE_RATE)
        sources.append(str(path))
    manifest = folder / f"recordings{utterances}.jsonl"
    with manifest.open("w", encoding="utf-8") as file:
        for number in range(utterances):
            recording = {
                "id": f"recording-{number:07d}",
                "sources": [{"type": "file", "channels": [0], "source": sources[number % files]}],
                "sampling_rate": SAMPLE_RATE,
                "num_samples": round(SAMPLE_RATE * each),
                "duration": each,
                "channel_ids": [0],
            }
            file.write(json.dumps(recording) + "\n")
    return manifest


@contextmanager
def _tiny_model() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(0)
        folder = Path(temporary, "model")
        peers.build_transformers(peers.LAYOUTS["tiny"]).save_pretrained(folder)
        yield folder


def peak_mib(command: Sequence[str]) -> float:
    """Runs a command of `python`, and returns the peak memory of its process."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}.")
    return usage.ru_maxrss / 2**10


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Measures memory: first with the scan of the corpus, then with the manifest that the scan has left."""
    found: dict[str, dict[str, float]] = {}
    print("| utterances | peak (MiB), corpus scanned | peak (MiB), scanned before |\n|---|---|---|")
    with _tiny_model() as model:
        folder = model.parent
        for utterances in options.utterances:
            manifest = write_many(folder, utterances)
            options.cache, options.workers = folder / "cache", 0
            peaks = []
            for turn in ("scanned", "again"):
                out = folder / f"{utterances} {turn}"
                peaks.append(peak_mib(encode_command(model, manifest, out, options, "--what=codes")))
            found[str(utterances)] = {"scanned": peaks[0], "scanned_before": peaks[1]}
            print(f"| {utterances:,} | {peaks[0]:.0f} | {peaks[1]:.0f} |", flush=True)
    return {"peak_mib": found}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["base", "tiny"], default="base")
    parser.add_argument("--corpus", default="festvox-ru", help="a sample corpus, or a folder of files of 16 kHz")
    parser.add_argument("--cache", type=Path, help="folder of prepared manifests")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--processes", type=int, default=1, help="computing processes of w2vlab encode")
    parser.add_argument("--workers", type=int, default=1, help="processes of w2vlab encode that read audio")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure memory")
    parser.add_argument("--utterances", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--loop", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.loop:
        what, *paths = options.loop
        loop(what, *map(Path, paths))
        return {}
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.corpus.encode", *args]), **machine()}
    if options.memory:
        figures |= measure_memory(options)
    else:
        figures |= {"matrix_gflops": matrix_rate() / 1e9, **compare(options)}
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
