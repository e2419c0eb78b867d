"""Units beside the phones that were spoken: of one utterance in time, and of a corpus as a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from w2vlab.data.labels.alignments import Alignment
from w2vlab.encoders.log_mel import LogMelEncoder
from w2vlab.evaluation.output.picture import phone_shares
from w2vlab.evaluation.tasks.unit_quality import JOINT, UnitData, count_phones, frame_phones
from w2vlab.types import SAMPLE_RATE, RunError, Seconds
from w2vlab.units.table import UnitTable
from w2vlab.utils.messages import count, one_line

_LEAST_WIDTH: Seconds = 0.025
"""Shortest run of a unit whose number is written in it."""

_SILENT = "#dddddd"
"""Colour outside all phones, and of units that have no phone."""


def draw_units(
    table: UnitTable,
    alignments: Mapping[str, Alignment],
    utterance: str,
    waveform: npt.NDArray[np.float32],
    start: Seconds = 0.0,
    seconds: Seconds = 1.5,
) -> Figure:
    """Draws units beside phones.

    On the left is a part of one utterance: its log-mel spectrogram, its phones, and its units, each in the colour of
    the phone that it most often has in the corpus. On the right is the share of each phone in the frames of each unit,
    over all utterances of the table that have phones; units are sorted by that phone.

        from w2vlab.data.labels.alignments import find_alignments
        from w2vlab.extraction.picture import draw_units
        from w2vlab.units.reading import read_units

        table, alignments = read_units("labels"), find_alignments(Path("corpus/wav"))
        waveform, _ = soundfile.read("corpus/wav/a.wav", dtype="float32")  # at 16 kHz
        draw_units(table, alignments, "a.wav", waveform).savefig("units.png", dpi=150)

    Args:
        table: The units.
        alignments: The phones of the utterances, by id.
        utterance: The utterance on the left.
        waveform: Its audio at 16 kHz, shape `(S,)`.
        start: First second that is drawn.
        seconds: Seconds that are drawn.

    Raises:
        RunError: No utterance of the table has phones, or the units of the utterance are not there.
    """
    phones = {name: alignments[name] for name in table.ids if name in alignments and len(table.codes(name))}
    if utterance not in phones:
        rule = "have units and phones" if phones else "be of a corpus with phones"
        raise RunError(
            f"`utterance` must {rule}, but {one_line(utterance, 100)} of {table.name} has not. "
            f"{len(phones)} of its {len(table):,} utterances have."
        )
    names = sorted({phone for alignment in phones.values() for phone in alignment.phones})
    data = _unit_data(table, phones, names)
    shares, shown_phones, shown_units, num_units = phone_shares(data)
    colours = _colours(names, shown_phones)
    joint = data.numbered()[JOINT][0][utterance].numpy()
    unit_colours = [_SILENT if phone < 0 else colours[names[phone]] for phone in _most_frequent_phones(data)]

    figure = Figure(figsize=(14, 6), layout="constrained")
    figure.suptitle(one_line(f"{utterance}, units of {Path(table.name).name}", 160).replace("$", r"\$"), fontsize=12)
    grid = figure.add_gridspec(3, 2, width_ratios=[1.5, 1], height_ratios=[3, 1, 1])
    spectrogram, spoken, units = (figure.add_subplot(grid[row, 0]) for row in range(3))
    _draw_spectrogram(spectrogram, waveform)
    _draw_phones(spoken, phones[utterance], colours)
    _draw_runs(units, table, utterance, joint, unit_colours)
    end = min(start + seconds, len(waveform) / SAMPLE_RATE)
    for axes in (spectrogram, spoken, units):
        axes.set_xlim(start, end)
    for axes in (spectrogram, spoken):
        axes.set_xticklabels([])
    units.set_xlabel("time (s)")
    matrix = figure.add_subplot(grid[:, 1])
    # By the square root, because few units have nearly only one phone.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    image = matrix.imshow(100 * shares.T.numpy(), aspect="auto", interpolation="nearest", cmap="viridis", norm=scale)
    matrix.set_yticks(range(len(shown_phones)), [names[phone] for phone in shown_phones], fontsize=6)
    matrix.set_xticks([])
    chosen = f"the {len(shown_units)} most used of {num_units}" if num_units > len(shown_units) else f"all {num_units}"
    matrix.set_xlabel(f"units ({chosen}), by their most frequent phone")
    matrix.set_title(f"P(phone | unit), {count(len(phones), 'utterance')}", fontsize=11)
    figure.colorbar(image, ax=matrix, label="% of the frames of the unit")
    return figure


def _unit_data(table: UnitTable, phones: Mapping[str, Alignment], names: list[str]) -> UnitData:
    codes = {name: torch.from_numpy(table.codes(name).astype(np.int64)) for name in phones}
    labels = {name: frame_phones(phones[name], names, table.grid, len(codes[name])) for name in phones}
    return UnitData(codes=codes, phones=labels, codebook_size=table.codebook_size, num_phones=len(names))


def _most_frequent_phones(data: UnitData) -> npt.NDArray[np.int64]:
    """Returns the phone that each unit most often has, `(V,)`; -1 if it has none."""
    codes, num_codes = data.numbered()[JOINT]
    counts = count_phones(data, codes, num_codes)  # (V, P)
    return np.where(counts.any(dim=1).numpy(), counts.argmax(dim=1).numpy(), -1)


def _colours(names: list[str], by_frequency: list[int]) -> dict[str, Any]:
    """Returns a colour of each phone, far apart for frequent ones."""
    palette = [colour for name in ("tab20", "tab20b", "tab20c") for colour in colormaps[name].colors]  # type: ignore[attr-defined]
    return {names[phone]: palette[rank % len(palette)] for rank, phone in enumerate(by_frequency)}


def _draw_spectrogram(axes: Axes, waveform: npt.NDArray[np.float32]) -> None:
    mel = LogMelEncoder(stack=1, normalize=False)
    with torch.no_grad():
        frames = mel(torch.from_numpy(np.ascontiguousarray(waveform))[None], [len(waveform)])[0]  # (T, C)
    first = (mel.grid.centres(len(frames))[[0, -1]] + [-0.005, 0.005]).tolist()
    axes.imshow(frames.T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=(*first, 0, frames.shape[1]))
    axes.set_ylabel("mel channel")


def _draw_phones(axes: Axes, alignment: Alignment, colours: Mapping[str, Any]) -> None:
    for phone, start, end in zip(alignment.phones, alignment.starts, alignment.ends, strict=True):
        axes.axvspan(start, end, color=colours.get(phone, _SILENT), linewidth=0)
        axes.text((start + end) / 2, 0.5, phone, ha="center", va="center", fontsize=9, clip_on=True)
    axes.vlines([*alignment.starts, *alignment.ends[-1:]], 0, 1, color="white", linewidth=1)
    _as_track(axes, "phones")


def _draw_runs(axes: Axes, table: UnitTable, utterance: str, joint: npt.NDArray[np.int64], colours: list[Any]) -> None:
    """Draws each run of a unit from half a stride before its first frame to half a stride after its last one."""
    codes = table.codes(utterance)
    times = table.grid.centres(len(codes))
    half = table.grid.stride / SAMPLE_RATE / 2
    firsts = np.flatnonzero(np.diff(joint, prepend=-1))
    for first, stop in zip(firsts, [*firsts[1:], len(codes)], strict=True):
        start, end = times[first] - half, times[stop - 1] + half
        axes.axvspan(start, end, color=colours[joint[first]], linewidth=0)
        axes.axvline(start, color="white", linewidth=0.5)
        if end - start >= _LEAST_WIDTH:
            text = "-".join(map(str, codes[first].tolist()))
            axes.text((start + end) / 2, 0.5, text, ha="center", va="center", fontsize=6, rotation=90, clip_on=True)
    _as_track(axes, "units")


def _as_track(axes: Axes, name: str) -> None:
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel(name)
    axes.spines[["top", "right", "left"]].set_visible(False)
