"""Targets from a file of units: HuBERT's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.codebooks import check_codebooks
from w2vlab.functional.joint_codes import JointCodes
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import UtteranceTargets
from w2vlab.types import AudioBatch, QuantizerOutput
from w2vlab.units.files import UnitFiles
from w2vlab.utils.checks import check_at_least


class FileTargets(UtteranceTargets):
    """Takes the codes of an utterance from a file of units, those of the frames that are nearest in time.

    The file has the whole utterances; a batch says where its windows are in them. Units of another frame rate fit, too:
    of MFCCs at 100 Hz, an encoder at 50 Hz gets every second one. The file is read when it is first needed, and not to
    load, evaluate, encode with, or export a model that was trained on it; therefore the number of its codes is an
    option.

    The codes are for losses that predict codes (`CodePredictionLoss`). The quantized vectors are the codes as numbers.

    Args:
        input_dim: Width C of the latents, which are not used; supplied by the module, not by YAML.
        path: A file or folder of units, of `w2vlab encode` or of another program; or several, one for each set of
            labels, whose codebooks are then together those of the targets.
        num_codebooks: Codebooks G, of all files together.
        codebook_size: Entries V of each codebook; of several files, those of the largest. It may be more than the file
            has: fairseq's label dictionaries have four more entries, which are never a target.
        stride: Samples at 16 kHz from one frame to the next, for a file that does not say (fairseq's `.km`): 16,000
            divided by fairseq's `label_rate`. None for the file's own.
        receptive_field: Samples that a frame depends on, for such a file; None for 400, 25 ms.
        joint_size: Classes for the combinations of codes that occur in the file, the most frequent first, as in BERT on
            codes; all others share one class more. 0 for the codes of each codebook by themselves.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Section II.
    """

    utterances_are_independent = True

    def __init__(
        self,
        input_dim: int,
        path: list[str] | str = "units",
        num_codebooks: int = 1,
        codebook_size: int = 500,
        stride: int | None = None,
        receptive_field: int | None = None,
        joint_size: int = 0,
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        if not path:
            raise ValueError("`path` must be a file of units, but is empty.")
        if stride is not None and stride < 1:
            raise ValueError(f"`stride` must be at least 1, but is {stride}.")
        if receptive_field is not None and receptive_field < 0:
            raise ValueError(f"`receptive_field` must not be negative, but is {receptive_field}.")
        check_at_least(0, joint_size=joint_size)
        self.joint = JointCodes(num_codebooks, codebook_size, joint_size) if joint_size else None
        self.num_codebooks = self.output_dim = 1 if self.joint else num_codebooks
        self.codebook_size = self.joint.num_entries if self.joint else codebook_size
        if joint_size and not isinstance(path, str):
            raise ValueError("`joint_size` must be 0 for several files, whose codebooks are of different labels.")
        paths = [path] if isinstance(path, str) else path
        self.files = UnitFiles("model.quantizer.path", paths, num_codebooks, codebook_size, stride, receptive_field)

    def of_utterances(self, batch: AudioBatch, grid: FrameGrid, num_frames: Sequence[int]) -> QuantizerOutput:
        """Returns the codes of every frame of a batch.

        Args:
            batch: Utterances or windows of them, found by `ids` and `starts`; without `starts` they begin at 0.
            grid: Where the frames are that the codes are targets of.
            num_frames: Frames of each utterance, B integers.

        Returns:
            `codes` `(B, T, G)`, with any codes on padding, and `quantized`, the same as numbers.

        Raises:
            RunError: The file is missing, or does not have the frames of an utterance.
        """
        codes = self.files.of_batch(batch, grid, num_frames, self.joint, self.dry_run)  # (B, T, G)
        on_device = torch.from_numpy(codes).to(batch.waveform.device, non_blocking=True)
        quantized = on_device.to(at_least_float32(batch.waveform[:0]).dtype)
        return QuantizerOutput(quantized=quantized, codes=on_device)

    def check_utterances(self, utterances: Iterable[tuple[str, int]]) -> tuple[str, str] | None:
        """Checks before training that the file has all utterances, and that they have the right length.

        Args:
            utterances: Id and samples at 16 kHz of each utterance that is trained or validated on.

        Returns:
            Hashes of their ids and of what the file has of them, which a resumed run compares; None without utterances.

        Raises:
            RunError: The first utterance that is missing or has another length, and how many there are.
        """
        return self.files.check(utterances)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns `codes` `(…, G)` as numbers."""
        return codes.float()
