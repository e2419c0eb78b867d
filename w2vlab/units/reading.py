"""Reads files of units, of `encode` and of others, into a `UnitTable`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units.array_files import (
    COUNTS_NPY,
    NPY,
    SAFETENSORS,
    describe_npy,
    describe_safetensors,
    read_npy,
    read_safetensors,
)
from w2vlab.units.description import UnitsDescription, check_complete
from w2vlab.units.parquet_files import describe_parquet, read_parquet
from w2vlab.units.parts import Part, join
from w2vlab.units.table import UnitTable
from w2vlab.units.text_files import KM, SRC, describe_text, read_text

DEFAULT_RECEPTIVE_FIELD = 400
"""Samples of a frame in files that do not say: 25 ms, as in wav2vec 2.0, HuBERT and Kaldi's MFCCs."""

_FORMATS: dict[str, tuple[Callable[[Path], UnitsDescription], Callable[[Path], Iterator[Part]]]] = {
    ".parquet": (describe_parquet, read_parquet),
    KM: (describe_text, read_text),
    SRC: (describe_text, read_text),
    SAFETENSORS: (describe_safetensors, read_safetensors),
    NPY: (describe_npy, read_npy),
}
"""Functions that describe and read a file, by its ending."""


def read_units(
    path: str | Path,
    stride: int | None = None,
    receptive_field: int | None = None,
    codebook_size: int | None = None,
) -> UnitTable:
    """Reads the units or codes of a corpus; repeats that were collapsed are repeated again.

    Args:
        path: A folder of `encode`, a file of it, or a file of another program: `.parquet` with columns `id` and `units`
            or `codes`; `.km` or `.src` with a `.tsv` (or `.ids`) of the same name beside it, as fairseq has.
        stride: Samples at 16 kHz from one frame to the next; only for files that do not say.
        receptive_field: Samples that a frame depends on; only for files that do not say, by default 25 ms.
        codebook_size: Entries V of each codebook; only for files that do not say, by default one more than the largest
            code.

    Raises:
        RunError: The file is missing or damaged, or has something else; it says where.
    """
    path = Path(path)
    files = _files(path)
    describe, _ = _FORMATS[files[0].suffix]
    said = describe(files[0])
    for file in files[1:]:
        other = describe(file)
        if (other.grid, other.codebook_size, other.num_codebooks) != (
            said.grid,
            said.codebook_size,
            said.num_codebooks,
        ):
            raise RunError(
                f"The files in {path} must be of the same encoding, but {files[0].name} has {_words(said)} and "
                f"{file.name} {_words(other)}. Give one of them."
            )
    said = _completed(said, path, stride, receptive_field, codebook_size)
    joined = join(_parts(files), str(path), said.codebook_size, said.num_codebooks)
    assert said.grid is not None
    return UnitTable(
        name=str(path),
        ids=joined.ids,
        offsets=joined.offsets,
        frames=joined.codes,
        grid=said.grid,
        codebook_size=joined.codebook_size,
        num_samples=joined.num_samples,
        provenance=said.provenance,
    )


def _files(path: Path) -> list[Path]:
    """Returns the files to read, in the order of the corpus."""
    endings = ", ".join(_FORMATS)
    if not os.path.exists(path):  # False for a name that is too long, too
        raise RunError(f"The file of units must exist, but {path} does not. Write it with `w2vlab encode`.")
    if not path.is_dir():
        if path.suffix not in _FORMATS or not path.is_file():  # opening a pipe would block
            raise RunError(f"{path} must be a file of units, one of {endings}, but is another.")
        return [path]
    check_complete(path)
    for ending in _FORMATS:
        found = sorted(file for file in path.glob(f"*{ending}") if _has_codes(file))
        if found:
            return found
    raise RunError(f"A folder of units must have files of one of {endings}, but {path} has none.")


def _has_codes(file: Path) -> bool:
    """Returns whether a file of a folder is one of codes by its name; that of counts belongs to another one."""
    return not file.name.startswith((".", "_")) and not file.name.endswith(COUNTS_NPY)


def _parts(files: list[Path]) -> Iterator[Part]:
    for file in files:
        yield from _FORMATS[file.suffix][1](file)


def _completed(
    said: UnitsDescription, path: Path, stride: int | None, receptive_field: int | None, codebook_size: int | None
) -> UnitsDescription:
    """Returns the description with what the caller says; both must not contradict each other."""
    if codebook_size is not None and codebook_size < 1:
        raise RunError(f"`codebook_size` must be at least 1, but is {codebook_size}.")
    for name, given, found in (
        ("stride", stride, said.grid and said.grid.stride),
        ("receptive_field", receptive_field, said.grid and said.grid.receptive_field),
        ("codebook_size", codebook_size, said.codebook_size),
    ):
        if given is not None and found is not None and given != found:
            raise RunError(f"`{name}` must be that of {path}, {found}, but is {given}. Leave it out.")
    if said.grid is None:
        if stride is None:
            raise RunError(
                f"`stride` must be given for {path}, because the file does not say how far apart its frames are: the "
                "samples at 16 kHz from one frame to the next, 320 for wav2vec 2.0 and HuBERT, 160 for MFCCs."
            )
        field = DEFAULT_RECEPTIVE_FIELD if receptive_field is None else receptive_field
        if stride < 1 or field < 0:
            raise RunError(f"`stride` must be at least 1 and `receptive_field` 0, but are {stride} and {field}.")
        said = replace(said, grid=FrameGrid(stride, field))
    return replace(said, codebook_size=said.codebook_size or codebook_size)


def _words(said: UnitsDescription) -> str:
    grid = f"a stride of {said.grid.stride}" if said.grid else "no stride"
    return f"{grid} and {said.num_codebooks or 'an unknown number of'} x {said.codebook_size or '?'} entries"
