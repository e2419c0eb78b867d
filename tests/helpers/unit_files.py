"""Files of units for tests, in Parquet as `w2vlab encode` writes them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import AudioBatch
from w2vlab.units.description import METADATA, UnitsDescription


def write_units(
    path: Path, codes: Mapping[str, npt.ArrayLike], grid: FrameGrid | None = None, codebook_size: int | None = None
) -> Path:
    """Writes the codes `(T, G)` of some utterances; without a grid, the file does not say where frames are in time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {name: np.asarray(frames) for name, frames in codes.items()}
    groups = next(iter(rows.values())).shape[1]
    table = pa.table({"id": list(rows), "codes": [frames.tolist() for frames in rows.values()]})
    if grid is not None:
        said = UnitsDescription(grid=grid, codebook_size=codebook_size, num_codebooks=groups).as_json()
        table = table.replace_schema_metadata({METADATA: said})
    pq.write_table(table, path)
    return path


TINY_SAMPLES = 1000


@cache
def tiny_units() -> str:
    """A file for the tiny models of the contracts: `TINY_SAMPLES` of each `utterance-N`, two codebooks of 5 entries."""
    folder = tempfile.mkdtemp(prefix="units-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    grid, draws = FrameGrid(10, 20), np.random.default_rng(0)
    shape = grid.num_frames(TINY_SAMPLES), 2
    codes = {f"utterance-{number}": draws.integers(5, size=shape) for number in range(200)}
    return str(write_units(Path(folder, "tiny.parquet"), codes, grid, 5))


class LengthsKnown(pl.LightningDataModule):
    """Batches by hand, of utterances whose lengths are those of `tiny_units`, as `SpeechDataModule` would know them.

    Args:
        batches: Micro-batches.
        more: Further utterances, and their samples.
    """

    def __init__(self, batches: Sequence[AudioBatch], more: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.batches = batches
        self.more = more or {}

    def utterance_lengths(self) -> Iterator[tuple[str, int]]:
        for batch in self.batches:
            yield from ((name, TINY_SAMPLES) for name in batch.ids)
        yield from self.more.items()

    def train_dataloader(self) -> Any:
        batches: Any = self.batches
        return DataLoader(batches, batch_size=None, shuffle=False)
