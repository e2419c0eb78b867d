"""What the codes of a model say about phones, and in how many bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vlab.data.alignments import Alignment
from w2vlab.evaluation.frames import FrameGrid
from w2vlab.functional.code_statistics import mean_run_length
from w2vlab.functional.information import jackknifed_pnmi
from w2vlab.functional.jackknife import Jackknifed
from w2vlab.functional.units import (
    BitRate,
    bit_rate,
    cluster_purity,
    cooccurrence,
    joint_codes,
    phone_normalized_mutual_information,
    phone_purity,
)

JOINT = "joint"
"""The name of the tuples of all codebooks, beside `codebook 1` and so on."""


@dataclass(frozen=True)
class UnitQuality:
    """Measurements of one codebook, or of the tuples of all.

    Attributes:
        name: `joint`, or which codebook.
        num_codes: Codes that could be told apart: entries, or tuples that were used.
        num_used: Codes that were used.
        bits: Bits a second.
        run_frames: For how many frames a code lasts on average.
        phone_purity: See `functional.units`; None without phones, as the two below.
        cluster_purity: See `functional.units`.
        pnmi: See `functional.units`.
        pnmi_shuffled: PNMI of the same codes in random order: what so many codes get from so few frames for nothing.
        pnmi_corrected: PNMI without the part that so few frames add (`functional.jackknife`), for comparisons between
            different numbers of codes.
    """

    name: str
    num_codes: int
    num_used: int
    bits: BitRate
    run_frames: float
    phone_purity: float | None = None
    cluster_purity: float | None = None
    pnmi: float | None = None
    pnmi_shuffled: float | None = None
    pnmi_corrected: float | None = None


@dataclass(frozen=True)
class UnitData:
    """Codes of the test utterances, and what is spoken in them.

    Attributes:
        codes: The codes `(T, G)` of each utterance, by its id.
        phones: The phone of each frame, `(T,)`, -1 where none is spoken; empty without phones.
        codebook_size: Entries V of a codebook.
        num_phones: Names P.
    """

    codes: Mapping[str, Tensor]
    phones: Mapping[str, Tensor]
    codebook_size: int
    num_phones: int

    def labelled(self, name: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns numbered codes `(T,)` of an utterance and its phones, in the frames that have one."""
        phones = self.phones[name]
        return codes[phones >= 0], phones[phones >= 0]

    def numbered(self) -> dict[str, tuple[dict[str, Tensor], int]]:
        """Returns what is measured, by name: codes `(T,)` of each utterance, and how many there could be."""
        ids = list(self.codes)
        joint, num_tuples = joint_codes(list(self.codes.values()))
        num_codebooks = next(iter(self.codes.values())).shape[1]
        found = {JOINT: (dict(zip(ids, joint, strict=True)), num_tuples)}
        if num_codebooks > 1:
            for group in range(num_codebooks):
                found[f"codebook {group + 1}"] = ({n: c[:, group] for n, c in self.codes.items()}, self.codebook_size)
        return found


def frame_phones(alignment: Alignment, phones: Sequence[str], grid: FrameGrid, num_frames: int) -> Tensor:
    """Returns the phone in the middle of each frame, int64 of shape `(T,)`: its place in `phones`, or -1."""
    numbers = {phone: index for index, phone in enumerate(phones)}
    names = torch.tensor([numbers.get(phone, -1) for phone in alignment.phones] + [-1])
    # Index -1 selects the last entry, which is -1.
    return names[torch.from_numpy(alignment.phone_indices(grid.centres(num_frames)))]


def measure_units(data: UnitData, frames_per_second: float) -> list[UnitQuality]:
    """Measures the tuples of codes, and each codebook where there are several."""
    measured = []
    for name, (codes, num_codes) in data.numbered().items():
        sequences = list(codes.values())
        known = {}
        if data.phones:
            counts = count_phones(data, codes, num_codes)
            known = {
                "phone_purity": phone_purity(counts),
                "cluster_purity": cluster_purity(counts),
                "pnmi": phone_normalized_mutual_information(counts),
                "pnmi_shuffled": _shuffled_pnmi(data, codes, num_codes),
                "pnmi_corrected": without_each(data, codes).corrected().value,
            }
        used = len(torch.unique(torch.cat(sequences)))
        runs = mean_run_length([sequence[:, None] for sequence in sequences])[0]
        measured.append(UnitQuality(name, num_codes, used, bit_rate(sequences, frames_per_second), runs, **known))
    return measured


def count_phones(data: UnitData, codes: Mapping[str, Tensor], num_codes: int) -> Tensor:
    """Returns in how many frames each code stands with each phone, `(V, P)`."""
    numbers, phones = _all_labelled(data, codes)
    return cooccurrence(numbers, phones, num_codes, data.num_phones)


def without_each(data: UnitData, codes: Mapping[str, Tensor]) -> Jackknifed:
    """Returns the PNMI of numbered codes `(T,)`, and what it is without each utterance."""
    pairs = [data.labelled(name, codes[name]) for name in sorted(codes)]
    return jackknifed_pnmi([(numbers.numpy(), phones.numpy()) for numbers, phones in pairs])


def _shuffled_pnmi(data: UnitData, codes: Mapping[str, Tensor], num_codes: int) -> float:
    numbers, phones = _all_labelled(data, codes)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return phone_normalized_mutual_information(cooccurrence(numbers[order], phones, num_codes, data.num_phones))


def _all_labelled(data: UnitData, codes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    pairs = [data.labelled(name, sequence) for name, sequence in codes.items()]
    numbers, phones = (torch.cat(side) for side in zip(*pairs, strict=True))
    return numbers, phones
