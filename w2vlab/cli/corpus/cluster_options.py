"""The options of `w2vlab cluster`.

In a file of their own, because jsonargparse imports what the file of a class imports for type checkers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class ClusterOptions:
    """Clusters the frames of a corpus by k-means, and writes the centers.

    A uniform sample of the frames is drawn in one pass over the corpus, in constant memory, and clustered. The units of
    `w2vlab encode --what units --centers OUT` are the indices of the nearest centers. If OUT has the same centers
    already, nothing is computed.

      w2vlab cluster mfcc CORPUS centers.safetensors --k 100
      w2vlab cluster runs/w2vlab/ID/checkpoints/last.ckpt CORPUS centers.safetensors --layer 6 --k 500

    Attributes:
        source: mfcc (39 dimensions at 100 Hz, as HuBERT clusters them), mfcc-cmvn (with mean and variance
            normalization of each utterance), log-mel (80 at 100 Hz), or a model: a checkpoint of w2vlab, or a file or
            folder of another project.
        data: Corpus, as data.corpus of `w2vlab fit`: a folder of audio, a manifest, or the name of a sample corpus.
        out: File of the centers, .safetensors.
        layer: Layer of a model: its number (0 is the input of the first one), or context.
        k: Number of clusters, at least 2.
        seed: Seed of the sample of frames and of the first centers.
        max_frames: Frames in the sample, at least k; by default 200,000, or 500 for each cluster if that is more. It
            decides the memory, 4 bytes for each dimension of each frame.
        restarts: Draws of first centers, of which those with the smallest inertia are written.
        engine: Package that computes the clusters: scikit-learn (Lloyd from k-means++), or faiss.
        exclude: Utterances to leave out, as data.exclude of `w2vlab fit`: a file with one id per line, or
            festvox-ru-test.
        batch_seconds: Most audio in a batch, in seconds, including padding.
        num_workers: Processes that read audio; 0 reads in the computing process.
        devices: Processes that compute frames, each on its own GPU if there are GPUs, or auto.
        accelerator: cpu, gpu, or auto.
        precision: 32-true, or bf16-mixed or 16-mixed for autocast.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.
        parts: Modules with your own parts, separated by commas, which the checkpoint may name.
        overwrite: Replace OUT if it has other centers.
    """

    source: str
    data: str
    out: Path
    layer: str | None = None
    k: int = 100
    seed: int = 0
    max_frames: int | None = None
    restarts: int = 1
    engine: Literal["scikit-learn", "faiss"] = "scikit-learn"
    exclude: str | None = None
    batch_seconds: float = 100.0
    num_workers: int = 2
    devices: Literal["auto"] | int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    cache_dir: Path | None = None
    parts: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_at_least(2, k=self.k)
        check_at_least(1, restarts=self.restarts, devices=None if self.devices == "auto" else self.devices)
        check_at_least(0, seed=self.seed, num_workers=self.num_workers)
        if not 0 < self.batch_seconds < float("inf"):
            raise ValueError(f"`batch_seconds` must be positive, but is {self.batch_seconds:g}.")
        if self.max_frames is not None and self.max_frames < self.k:
            raise ValueError(
                f"`max_frames` must be at least the number of clusters ({self.k:,}), but is {self.max_frames:,}."
            )
