"""Measures how well the codes of a model agree with phones, and their bit rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vlab.data.labels.alignments import Alignment
from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.measures.code_statistics import mean_run_length
from w2vlab.functional.measures.information import pnmi_estimate
from w2vlab.functional.measures.jackknife import JackknifeEstimate
from w2vlab.functional.measures.units import (
    BitRate,
    bit_rate,
    cluster_purity,
    cooccurrence,
    joint_codes,
    phone_normalized_mutual_information,
    phone_purity,
)

JOINT = "joint"
"""Name of the tuples of codes of all codebooks; single codebooks are `codebook 1` and so on."""


@dataclass(frozen=True, kw_only=True)
class UnitQuality:
    """Results of one codebook, or of the tuples of all codebooks.

    Attributes:
        name: `joint` or `codebook N`.
        num_codes: Number of codes: of entries, or of tuples that were used.
        num_used: Number of codes that were used.
        bits: Bit rates.
        run_frames: Mean number of frames from one change of the code to the next.
        phone_purity: See `functional.measures.units`; None without phones, as the following ones.
        cluster_purity: See `functional.measures.units`.
        pnmi: Phone-normalized mutual information; see `functional.measures.units`.
        pnmi_shuffled: PNMI of the same codes in random order: the bias of PNMI for this number of codes and frames.
        pnmi_corrected: PNMI with its bias removed (`functional.measures.jackknife`), for comparisons between different
            numbers of codes.
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


@dataclass(frozen=True, kw_only=True)
class UnitData:
    """Codes and phones of the test utterances.

    Attributes:
        codes: Codes `(T, G)` of each utterance, by its id.
        phones: Phone label of each frame, `(T,)`, -1 outside all phones; empty without phones.
        codebook_size: Entries V of a codebook.
        num_phones: Number P of phones.
    """

    codes: Mapping[str, Tensor]
    phones: Mapping[str, Tensor]
    codebook_size: int
    num_phones: int

    def labelled(self, name: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the codes `(T,)` and the phones of an utterance, of the frames that have a phone."""
        phones = self.phones[name]
        return codes[phones >= 0], phones[phones >= 0]

    def numbered(self) -> dict[str, tuple[dict[str, Tensor], int]]:
        """Returns codes `(T,)` of each utterance and the number of codes, for `joint` and for each codebook."""
        ids = list(self.codes)
        joint, num_tuples = joint_codes(list(self.codes.values()))
        num_codebooks = next(iter(self.codes.values())).shape[1]
        numbered = {JOINT: (dict(zip(ids, joint, strict=True)), num_tuples)}
        if num_codebooks > 1:
            for group in range(num_codebooks):
                codes = {name: tuples[:, group] for name, tuples in self.codes.items()}
                numbered[f"codebook {group + 1}"] = (codes, self.codebook_size)
        return numbered


def frame_phones(alignment: Alignment, phones: Sequence[str], grid: FrameGrid, num_frames: int) -> Tensor:
    """Returns the label of the phone in the middle of each frame, int64 `(T,)`: its index in `phones`, or -1."""
    label = {phone: index for index, phone in enumerate(phones)}
    labels = torch.tensor([label.get(phone, -1) for phone in alignment.phones] + [-1])
    # Index -1 selects the last entry, which is -1.
    return labels[torch.from_numpy(alignment.phone_indices(grid.centres(num_frames)))]


def measure_units(data: UnitData, frames_per_second: float) -> list[UnitQuality]:
    """Measures the tuples of codes, and each codebook if there are several.

    Args:
        data: The codes and phones.
        frames_per_second: Frame rate in Hz.
    """
    results = []
    for name, (codes, num_codes) in data.numbered().items():
        sequences = list(codes.values())
        agreement = {}
        if data.phones:
            counts = count_phones(data, codes, num_codes)
            agreement = {
                "phone_purity": phone_purity(counts),
                "cluster_purity": cluster_purity(counts),
                "pnmi": phone_normalized_mutual_information(counts),
                "pnmi_shuffled": _shuffled_pnmi(data, codes, num_codes),
                "pnmi_corrected": leave_one_out_pnmi(data, codes).bias_corrected().value,
            }
        quality = UnitQuality(
            name=name,
            num_codes=num_codes,
            num_used=len(torch.unique(torch.cat(sequences))),
            bits=bit_rate(sequences, frames_per_second),
            run_frames=mean_run_length([sequence[:, None] for sequence in sequences])[0],
            **agreement,
        )
        results.append(quality)
    return results


def count_phones(data: UnitData, codes: Mapping[str, Tensor], num_codes: int) -> Tensor:
    """Counts the frames with each pair of a code and a phone, `(V, P)`."""
    numbers, phones = _labelled_frames(data, codes)
    return cooccurrence(numbers, phones, num_codes, data.num_phones)


def leave_one_out_pnmi(data: UnitData, codes: Mapping[str, Tensor]) -> JackknifeEstimate:
    """Returns the PNMI of codes `(T,)`, and those that leave out each utterance."""
    pairs = [data.labelled(name, codes[name]) for name in sorted(codes)]
    return pnmi_estimate([(numbers.numpy(), phones.numpy()) for numbers, phones in pairs])


def _shuffled_pnmi(data: UnitData, codes: Mapping[str, Tensor], num_codes: int) -> float:
    numbers, phones = _labelled_frames(data, codes)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return phone_normalized_mutual_information(cooccurrence(numbers[order], phones, num_codes, data.num_phones))


def _labelled_frames(data: UnitData, codes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    pairs = [data.labelled(name, sequence) for name, sequence in codes.items()]
    numbers, phones = (torch.cat(side) for side in zip(*pairs, strict=True))
    return numbers, phones
