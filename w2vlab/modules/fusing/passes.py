"""The noise of each pass of a training step through the model, of one micro-batch or of several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from w2vlab.batch import AudioBatch, split_micro_batches
from w2vlab.functional.kernels.noise import SeparateNoise, Stream, default_generator, drawing
from w2vlab.interfaces import FeatureEncoder
from w2vlab.modules.drawing.seeding import seed_noise
from w2vlab.modules.fusing.fusable import has_compiled_regions, why_not_fused
from w2vlab.utils.distributed import rank, world_size
from w2vlab.utils.messages import W2VLabWarning

if TYPE_CHECKING:
    from w2vlab.modules.update import TrainedModule


def noise_seed(seed: int, update: int, micro_batch: int) -> int:
    """Returns the seed of dropout and Gumbel noise of a micro-batch.

    Args:
        seed: Seed of the run.
        update: Updates done.
        micro_batch: Its index in the global batch.
    """
    key = f"{seed}/{update}/{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


class Fusing:
    """How the micro-batches of the training steps of a module are computed."""

    def __init__(self) -> None:
        self._decided = False
        self._fused = True
        self._compiled = False

    def decide(self, module: TrainedModule, batches: Sequence[AudioBatch]) -> None:
        """Decides whether micro-batches are computed as one batch, and reports it once if they are not.

        Args:
            module: The module, ready for its first update.
            batches: Batches of the loader.
        """
        if self._decided or not any(one.num_micro_batches > 1 for batch in batches for one in batch.passes):
            return
        self._decided = True
        self._compiled = has_compiled_regions(module)
        reason = why_not_fused(module)
        self._fused = reason is None
        if reason is not None:
            rank_zero_warn(
                f"`data.fuse_seconds` has no effect, micro-batches are computed one after another: {reason}.",
                category=W2VLabWarning,
            )
        elif self._compiled:
            rank_zero_info(
                "CompileModel: in compiled regions, noise is drawn for all micro-batches of a fused batch together, so "
                "the update differs in it from that without `data.fuse_seconds`."
            )

    def passes(self, batch: AudioBatch) -> list[AudioBatch]:
        """Returns what goes through the model at once, of a batch of the loader."""
        if self._fused:
            return list(batch.passes)
        return [one for several in batch.passes for one in split_micro_batches(several)]

    @contextmanager
    def noise(self, module: TrainedModule, batch: AudioBatch, number: int) -> Iterator[None]:
        """Seeds the noise that is drawn inside: that of each micro-batch, by its index in the global batch.

        Args:
            module: The module.
            batch: What goes through it at once.
            number: Number of the batch of the loader in the update, from 0, which is that of its micro-batch if it has
                no `parts`.

        Raises:
            RuntimeError: Something that is not compiled has drawn numbers for several micro-batches together.
        """
        numbers = [number] if batch.parts is None else [part.number for part in batch.parts]
        # The data layer gives micro-batches to the processes in turn.
        indices = [number * world_size() + rank() for number in numbers]
        seeds = [noise_seed(module.seed, module.global_step, index) for index in indices]
        seed_noise(seeds[0], module.device)
        if batch.parts is None or batch.num_micro_batches == 1:
            yield
            return
        encoder = cast(FeatureEncoder, module.encoder)
        sizes = [part.size for part in batch.parts]
        num_frames = tuple(map(encoder.num_frames, batch.num_samples))
        streams = [Stream.seeded(seed, module.device) for seed in seeds]
        # The default ones; those of the host may be drawn from on any device.
        generators = torch.default_generator, default_generator(module.device)
        before = [generator.get_state() for generator in generators]
        with drawing(SeparateNoise(streams, sizes, num_frames)):
            yield
        after = [generator.get_state() for generator in generators]
        if not self._compiled and not all(map(torch.equal, before, after)):
            raise RuntimeError(
                "A part of the model has drawn random numbers for several micro-batches together, which it would draw "
                "for each one otherwise. Set `data.fuse_seconds` to null, or draw with the layers of "
                "w2vlab.functional.kernels."
            )
