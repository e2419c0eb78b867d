"""Embeddings of the codes that a file has: the inputs of BERT on codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.codebooks import check_codebooks
from w2vlab.functional.joint_codes import JointCodes
from w2vlab.interfaces import UtteranceEncoder
from w2vlab.types import AudioBatch
from w2vlab.units.files import UnitFiles
from w2vlab.utils.checks import check_at_least

Combine = Literal["sum", "concat"]


class CodeEmbedding(UtteranceEncoder):
    """Embeds the codes of an utterance, which a file has; audio is not read.

    A batch says by its ids and starts which codes its windows have; those that are nearest in time are taken. The file
    is read when it is first needed, so that a checkpoint can be opened without it.

    Args:
        path: A file or folder of codes of all utterances, of `w2vlab encode` or of another program.
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each codebook.
        output_dim: Width C of the latents.
        combine: `sum` adds the embeddings of the G codes of a frame, each of width C; `concat` joins them, each of
            width C / G.
        stride: Samples at 16 kHz from one frame to the next, those of the file; 160 in vq-wav2vec.
        receptive_field: Samples that a code depends on, those of the file; 465 in vq-wav2vec.
        joint_size: Entries of one table for the combinations of codes that occur in the file, the most frequent first,
            as published; all others share one entry more. 0 for a table for each codebook.

    Reference:
        Baevski et al. 2019, arXiv:1910.05453, Section 4.
    """

    utterances_are_independent = True

    first: Tensor

    def __init__(
        self,
        path: str = "codes",
        num_codebooks: int = 2,
        codebook_size: int = 320,
        output_dim: int = 768,
        combine: Combine = "sum",
        stride: int = 160,
        receptive_field: int = 465,
        joint_size: int = 0,
    ) -> None:
        super().__init__()
        check_choice("combine", combine, Combine)
        check_codebooks(num_codebooks, codebook_size)
        check_at_least(1, output_dim=output_dim, stride=stride)
        check_at_least(0, receptive_field=receptive_field, joint_size=joint_size)
        if not path:
            raise ValueError("`path` must be a file of codes, but is empty.")
        if combine == "concat" and joint_size:
            raise ValueError("`combine` must be sum if `joint_size` is given, as there is one table, but is concat.")
        if combine == "concat" and output_dim % num_codebooks:
            raise ValueError(
                f"`output_dim` must be a multiple of `num_codebooks` ({num_codebooks}) to be joined of their "
                f"embeddings, but is {output_dim}."
            )
        self.output_dim = output_dim
        self.stride = stride
        self.receptive_field = receptive_field
        self.combine = combine
        self.files = UnitFiles("model.encoder.path", [path], num_codebooks, codebook_size, stride, receptive_field)
        self.joint = JointCodes(num_codebooks, codebook_size, joint_size) if joint_size else None
        groups, entries = (1, self.joint.num_entries) if self.joint else (num_codebooks, codebook_size)
        self.embedding = nn.Embedding(groups * entries, output_dim if combine == "sum" else output_dim // groups)
        # Row of the first entry of each codebook.
        self.register_buffer("first", torch.arange(groups) * entries, persistent=False)

    def of_batch(self, batch: AudioBatch) -> Tensor:
        """Returns the latents of the windows of a batch.

        Args:
            batch: Utterances or windows of them, found by `ids` and `starts`; without `starts` they begin at 0.

        Returns:
            Latents, shape `(B, T, C)`.

        Raises:
            RunError: The file is missing, or does not have the frames of an utterance.
        """
        num_frames = [self.num_frames(samples) for samples in batch.num_samples]
        codes = self.files.of_batch(batch, self.grid, num_frames, self.joint, self.dry_run)  # (B, T, G)
        on_device = torch.from_numpy(codes).to(batch.waveform.device, non_blocking=True)  # (B, T, G)
        embedded: Tensor = self.embedding(on_device + self.first)  # (B, T, G, C or C / G)
        return embedded.sum(dim=2) if self.combine == "sum" else embedded.flatten(2)

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
