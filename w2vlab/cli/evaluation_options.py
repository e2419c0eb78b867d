"""The options of `w2vlab evaluate` and `w2vlab compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class MeasurementOptions:
    """Options of an evaluation: its data and its measurements.

    Attributes:
        corpus: Labelled speech: festvox-ru, which is fetched once, a folder of audio with .lab files, or a lhotse
            manifest of cuts with the alignment `phone`. Without labels, only the statistics of the codes are measured.
        layers: all, or some of them with commas between: numbers of the context network's layers (0 is the input of
            the first), latents, context, quantized, codes.
        split: Which utterances probes learn from, and which are measured: hash (by a hash of each id, a tenth may be
            tested on), or a JSON file with the lists `train` and `test`, such as the split.json of an evaluation.
        num_train: Most utterances to learn from with the split hash, at least 2.
        num_test: Most utterances to measure on with the split hash, at least 1.
        abx_cells: Cells of the ABX task: all, or at most this number, drawn evenly among pairs of phones, then among
            the cells of each, which does not change the expected error; 0 leaves ABX out.
        abx_utterances: Source of the cells: the test utterances, or all that have labels, which can take minutes for
            each representation.
        seed: Seed of the draw of cells; nothing else is drawn.
        device: Device of the computation; auto is a GPU if available.
        batch_seconds: Most audio in a batch, in seconds.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.
        parts: Modules with your own parts, separated by commas, which the checkpoint may name; a checkpoint by itself
            imports nothing.
        wandb: Mode of Weights & Biases; by default that of WANDB_MODE, else offline.
    """

    corpus: str = "festvox-ru"
    layers: str = "all"
    split: str = "hash"
    num_train: int = 150
    num_test: int = 50
    abx_cells: Literal["all"] | int = "all"
    abx_utterances: Literal["test", "all"] = "test"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_seconds: int = 40
    cache_dir: Path | None = None
    parts: str | None = None
    wandb: Literal["offline", "online", "off"] | None = None

    def __post_init__(self) -> None:
        check_at_least(2, num_train=self.num_train)
        check_at_least(1, num_test=self.num_test, batch_seconds=self.batch_seconds)
        check_at_least(0, abx_cells=self.max_cells, seed=self.seed)

    @property
    def max_cells(self) -> int | None:
        """Most cells of an ABX task; None for all of them."""
        return None if self.abx_cells == "all" else self.abx_cells


@dataclass(kw_only=True)
class EvaluateOptions(MeasurementOptions):
    """Measures a pretrained model on labelled speech, with frozen weights and without masking.

    It measures the codes as units (purity, mutual information with phones, bits a second), and the ABX error and a
    linear phone probe of every layer. The controls are beside them: the same network before training, labels shifted by
    0.3 s, and cepstra (MFCC).

      w2vlab evaluate runs/w2vlab/ID/checkpoints/last.ckpt
      w2vlab evaluate last.ckpt --corpus FOLDER --layers 0,2,4,codes

    Attributes:
        checkpoint: File of the model; or a file or folder of fairseq, transformers or torchaudio.
        folder: Folder of the results; by default evaluation/NAME in the folder of the checkpoint's run.
    """

    checkpoint: Path
    folder: Path | None = None


@dataclass(kw_only=True)
class CompareOptions(MeasurementOptions):
    """Measures checkpoints as `w2vlab evaluate` does, on the same utterances and cells, with confidence intervals.

    The 95 % intervals of figures, and of their differences from those of the first checkpoint, say how much they depend
    on the test utterances: by the jackknife, which leaves out one utterance after another, and for ABX by subsampling,
    which divides them into parts. How much another seed or run would change is not in them. PNMI is corrected for its
    bias, so that models with different numbers of codes can be compared.

      w2vlab compare runs/w2vlab/ONE/checkpoints/last.ckpt runs/w2vlab/TWO/checkpoints/last.ckpt

    Attributes:
        checkpoints: Files of the models, at least 2; or files or folders of other projects.
        folder: Folder of the results.
    """

    checkpoints: list[str]
    folder: Path = Path("comparison")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.checkpoints) < 2:
            raise ValueError(f"compare takes at least 2 checkpoints, but was given {len(self.checkpoints)}.")
