"""The options of `w2vlab encode`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class EncodeOptions:
    """Writes codes, features or units of a corpus to a folder.

    The corpus is written in shards, in its order. If the command is ended, the same command resumes after the last
    complete shard. At the end, encoding.json says what the folder has, and a table is printed.

      w2vlab encode runs/w2vlab/ID/checkpoints/last.ckpt festvox-ru codes --what codes
      w2vlab encode hf:facebook/hubert-base-ls960 FOLDER features --what features --layers 6,9 --format npy
      w2vlab encode last.ckpt train.tsv labels --what units --centers centers.safetensors --format fairseq

    Attributes:
        source: A checkpoint of w2vlab, a file or folder of another project, or mfcc, mfcc-cmvn (with mean and variance
            normalization of each utterance) or log-mel.
        data: What `fit` takes as data.corpus: a folder of audio, a fairseq .tsv manifest, a lhotse manifest, or a
            sample corpus such as festvox-ru.
        out: The folder to write.
        what: codes (of the model's quantizer), features (vectors), units (indices of the nearest k-means centers).
        layers: Of features: numbers of layers (0 is the input of the first one), context (the last layer with its final
            norm), all, with commas between; by default context. Layers above the highest one are not computed. The
            layer of units is that of the centers.
        centers: File of the centers that `w2vlab cluster` wrote, for units.
        format: parquet (for pandas, polars, datasets), npy (arrays that can be mapped into memory), safetensors,
            fairseq (.km or .src with a .tsv), lhotse (features in a manifest of cuts).
        collapse: Join repeats of codes or units in a row, with their counts.
        exclude: Utterances to leave out: a file with one id per line, or festvox-ru-test.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.
        chunk_seconds: Longest piece of a recording that is computed at once; 0 cuts nothing. By default 120 for outputs
            of a context network and for models that normalize over time, 60 for codes that do not depend on where a
            recording is cut, and nothing is cut for codes whose memory does not grow.
        context_seconds: Audio on both sides of a piece that its frames see, if they depend on the whole recording.
        shard_minutes: Most audio in a shard, in minutes. A shard is also limited to 256 MiB.
        batch_seconds: Most audio in a batch, in seconds, including padding.
        num_workers: Processes that read audio; 0 reads in the computing process.
        devices: Processes that compute, each on its own GPU if there are GPUs, or auto.
        accelerator: cpu, gpu, or auto.
        precision: 32-true, or bf16-mixed or 16-mixed for autocast.
        parts: Modules with your own parts, separated by commas, which the checkpoint may name.
    """

    source: str
    data: str
    out: Path
    what: Literal["codes", "features", "units"]
    layers: str | None = None
    centers: Path | None = None
    format: Literal["parquet", "npy", "safetensors", "fairseq", "lhotse"] = "parquet"
    collapse: bool = False
    exclude: str | None = None
    cache_dir: Path | None = None
    chunk_seconds: float | None = None
    context_seconds: float = 10.0
    shard_minutes: float = 15.0
    batch_seconds: float = 100.0
    num_workers: int = 2
    devices: Literal["auto"] | int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    parts: str | None = None

    def __post_init__(self) -> None:
        check_at_least(0, num_workers=self.num_workers)
        if self.devices != "auto":
            check_at_least(1, devices=self.devices)
        for name in ("shard_minutes", "batch_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be positive, but is {getattr(self, name):g}.")
        for name in ("chunk_seconds", "context_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be at least 0, but is {value:g}.")
