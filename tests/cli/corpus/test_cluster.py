"""`w2vlab cluster`, called in place."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.interop.toys import save, toy_model
from tests.processes import forked
from w2vlab.cli.main import main
from w2vlab.extraction.acoustic import acoustic_source
from w2vlab.extraction.clustering import clusterer, kmeans
from w2vlab.extraction.clustering.reservoir import Reservoir
from w2vlab.types import AudioBatch
from w2vlab.units.centers import read_centers
from w2vlab.utils.files import UNFINISHED


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve utterances of noise of changing color."""
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number in range(12):
        noise = 0.1 * random.standard_normal(9_000 + 700 * number)
        noise[::2] *= number / 12
        soundfile.write(root / f"u{number:02}.wav", noise, 16_000)
    return root


@pytest.fixture
def cluster(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the command on the corpus, with centers.safetensors as OUT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    return lambda source="mfcc", *options: main(["cluster", *words(source, corpus), *options])


def words(source: str, corpus: Path) -> list[str]:
    return [source, str(corpus), "centers.safetensors", "--num_workers=0", "--accelerator=cpu"]


def frames_of(corpus: Path) -> np.ndarray:
    source = acoustic_source("mfcc")
    found = []
    for path in sorted(corpus.glob("*.wav")):
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        batch = AudioBatch(waveform=waveform[None], num_samples=(len(waveform),), ids=(path.name,))
        found += [frames["mfcc"].numpy() for _, frames in source(batch)]
    return np.concatenate(found)


def test_the_centers_are_those_of_all_frames(cluster, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster("mfcc", "--k=7", "--seed=3", "--restarts=2") == 0
    centers = read_centers(Path("centers.safetensors"))
    frames = frames_of(corpus)
    assert centers.vectors.shape == (7, 39)
    assert (centers.stream, centers.grid) == ("mfcc", acoustic_source("mfcc").grid)
    units = centers.nearest(torch.from_numpy(frames))
    assert centers.counts is not None
    assert centers.counts.tolist() == torch.bincount(units, minlength=7).tolist()
    distances = (torch.from_numpy(frames) - centers.vectors[units]).double().square().sum(1)
    assert centers.inertia == pytest.approx(float(distances.mean()), rel=1e-4)
    theirs = kmeans.k_means(frames, 7, seed=3, restarts=2)
    assert centers.inertia < 1.05 * theirs.inertia
    expected = {"source": "mfcc", "data": str(corpus), "k": 7, "seed": 3, "restarts": 2, "frames_seen": len(frames)}
    assert expected.items() <= centers.provenance.items()
    printed = capsys.readouterr()
    assert "K-means of mfcc" in printed.out
    assert f"{len(frames):,}" in printed.out
    assert "Written: centers.safetensors" in printed.out
    assert "Frames (mfcc)" in printed.err
    assert "K-means (7)" in printed.err


def test_the_sample_and_so_the_centers_do_not_depend_on_the_batches(cluster) -> None:
    assert cluster("mfcc", "--k=5", "--max_frames=100", "--batch_seconds=1") == 0
    first = read_centers(Path("centers.safetensors"))
    assert cluster("mfcc", "--k=5", "--max_frames=100", "--batch_seconds=30", "--overwrite") == 0
    again = read_centers(Path("centers.safetensors"))
    assert torch.equal(first.vectors, again.vectors)
    assert first.provenance["frames_kept"] == 100


def test_the_same_clustering_is_not_repeated_and_another_one_not_replaced(
    cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster("mfcc", "--k=4") == 0
    before = Path("centers.safetensors").read_bytes()
    capsys.readouterr()
    assert cluster("mfcc", "--k=4") == 0
    assert capsys.readouterr().out.startswith("Done before (20")
    for options, message in (
        (("mfcc", "--k=5"), "its `k` is 4, not 5"),
        (("mfcc", "--k=4", "--seed=1"), "its `seed` is 0, not 1"),
        (("log-mel", "--k=4"), "its `stream` is mfcc, not log-mel"),
    ):
        assert cluster(*options) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "--overwrite replaces it" in error
    assert Path("centers.safetensors").read_bytes() == before
    assert cluster("log-mel", "--k=4", "--overwrite") == 0
    assert read_centers(Path("centers.safetensors")).dim == 80


def test_a_change_of_the_corpus_is_another_clustering(
    cluster, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("excluded.txt").write_text("u03.wav\n")
    assert cluster("mfcc", "--k=4") == 0
    assert cluster("mfcc", "--k=4", "--exclude=excluded.txt") == 1
    assert "its `utterances` is those of" in capsys.readouterr().err
    assert cluster("mfcc", "--k=4", "--exclude=excluded.txt", "--overwrite") == 0
    excluded = len(frames_of(corpus)) - (1 + (9_000 + 2_100 - 400) // 160)
    assert read_centers(Path("centers.safetensors")).provenance["frames_seen"] == excluded


def test_a_layer_of_a_model(cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(save(toy_model(), tmp_path / "toy.ckpt"))
    assert cluster(checkpoint, "--k=3") == 1
    assert "`layer` must be given for a model" in capsys.readouterr().err
    assert cluster(checkpoint, "--k=3", "--layer=1,2") == 1
    assert "`layer` must be a single one" in capsys.readouterr().err
    assert cluster(checkpoint, "--k=3", "--layer=2") == 0
    centers = read_centers(Path("centers.safetensors"))
    assert (centers.stream, centers.dim, centers.grid.stride) == ("layer 2", 24, 320)
    assert centers.provenance["blake2b"]
    capsys.readouterr()
    torch.save({**torch.load(checkpoint), "global_step": 1}, checkpoint)  # the model was trained further
    assert cluster(checkpoint, "--k=3", "--layer=2") == 1
    assert "its `source` is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--k=1"], 2, "`k` must be at least 2, but is 1."),
        (["--max_frames=50"], 2, "`max_frames` must be at least the number of clusters (100), but is 50."),
        (["--restarts=0"], 2, "`restarts` must be at least 1"),
        (["--k=100000"], 1, "`k` must be at most the number of frames"),
        (["--layer=3"], 1, "`layer` must be left out for mfcc"),
        (["--exclude=nowhere.txt"], 1, "`exclude` must be festvox-ru-test or a file"),
    ],
)
def test_wrong_options(cluster, options: list[str], status: int, message: str, capsys) -> None:
    assert cluster("mfcc", *options) == status
    assert message in capsys.readouterr().err
    assert not Path("centers.safetensors").exists()


def test_another_file_is_not_replaced_and_out_must_be_a_file_that_can_be_written(
    cluster, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("centers.safetensors").write_text("a file of somebody")
    assert cluster("mfcc") == 1
    assert "`out` must be a file that `w2vlab cluster` has written" in capsys.readouterr().err
    assert Path("centers.safetensors").read_text() == "a file of somebody"
    for out, message in (
        ("centers.pt", "`out` must be a .safetensors file, but is centers.pt."),
        ("/proc/centers.safetensors", "`out` must be writable, but /proc is not"),
    ):
        assert main(["cluster", "mfcc", str(corpus), out]) == 1
        assert message in capsys.readouterr().err


def test_a_corpus_of_silence_has_too_few_distinct_frames(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "silence").mkdir()
    soundfile.write(tmp_path / "silence" / "a.wav", np.zeros(16_000), 16_000)
    assert main(["cluster", "mfcc", str(tmp_path / "silence"), str(tmp_path / "c.safetensors"), "--k=2"]) == 1
    assert "`k` must be at most the number of distinct frames, which is 1, but is 2." in capsys.readouterr().err


def test_frames_that_are_not_finite_are_an_error_if_there_are_no_others(cluster, capsys, monkeypatch) -> None:
    class Broken(Reservoir):
        def add(self, utterance: str, frames: torch.Tensor, first_frame: int = 0) -> None:
            super().add(utterance, torch.full_like(frames, torch.nan), first_frame)

    monkeypatch.setattr(clusterer, "Reservoir", Broken)
    assert cluster("mfcc") == 1
    error = capsys.readouterr().err
    assert "`source` must compute finite frames, but all of its" in error
    assert "that are not finite so far; the last ones are of u" in error


def test_an_interrupt_leaves_nothing_half_written(cluster, capsys, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(10)

    monkeypatch.setattr(clusterer, "k_means", interrupted)
    assert cluster("mfcc") == 130
    assert "SIGINT: ended early; nothing was written." in capsys.readouterr().err
    assert not list(Path().glob("centers*"))


def test_a_full_disk_leaves_the_old_file(cluster, capsys, monkeypatch) -> None:
    assert cluster("mfcc", "--k=3") == 0
    before = Path("centers.safetensors").read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert cluster("mfcc", "--k=4", "--overwrite") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert Path("centers.safetensors").read_bytes() == before
    assert not list(Path().glob(f"*{UNFINISHED}"))


def test_provenance_is_plain_json(cluster) -> None:
    assert cluster("mfcc", "--k=3") == 0
    provenance = dict(read_centers(Path("centers.safetensors")).provenance)
    assert json.loads(json.dumps(provenance)) == provenance
    assert {"source", "what", "layer", "data", "version", "date"} <= provenance.keys()


def test_two_processes_compute_the_same_centers(cluster, corpus: Path, tmp_path: Path) -> None:
    options = ["--k=6", "--max_frames=200"]
    assert cluster("mfcc", *options) == 0
    one = read_centers(Path("centers.safetensors"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = ["w2vlab", "cluster", *words("mfcc", corpus), *options, "--devices=2", "--overwrite"]
    ranks = [
        forked.Popen(
            command,
            env={**os.environ, **address, "NODE_RANK": "0", "LOCAL_RANK": str(rank)},
            stdout=forked.PIPE,
            stderr=forked.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    two = read_centers(Path("centers.safetensors"))
    assert two.provenance["frames_seen"] == one.provenance["frames_seen"]
    assert torch.equal(two.vectors, one.vectors)
    assert "Written" in printed[0][0]
    assert not printed[1][0]
