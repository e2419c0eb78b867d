"""The place of a run in its data, for checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.data.batches.micro_batches import first_micro_batch, micro_batches_of_each
from w2vlab.data.corpora.same_data import restore_split
from w2vlab.data.corpora.splits import DataSplit
from w2vlab.data.fusing import micro_batches_at_once, num_groups
from w2vlab.data.order import is_same_selection, recorded_options, warn_about_order
from w2vlab.types import Seconds
from w2vlab.utils.distributed import world_size
from w2vlab.utils.resume_point import resume_point


class ResumableData(LightningDataModule, ABC):
    """Saves the place of a run in its training data, and restores it with the utterances of the start of the run."""

    accept_changes: bool
    batch_seconds: Seconds
    micro_batches: int | None
    fuse_seconds: Seconds | None

    def __init__(self) -> None:
        super().__init__()
        self._manifests: dict[str, str] = {}  # fingerprint of the manifest of each corpus
        self._place = (0, 0)  # epoch, and micro-batches of it that are done, of all processes

    @abstractmethod
    def _read_split(self, fingerprints: Mapping[str, str]) -> DataSplit:
        """Reads the manifests of these fingerprints, and selects and splits their utterances."""

    @abstractmethod
    def _order(self) -> dict[str, Any]:
        """Returns the options that the order of the batches depends on, for a comparison when the run is resumed."""

    @property
    def accumulate(self) -> int:
        """Micro-batches of an update on each process."""
        if self.at_once > 1 and self.micro_batches is not None:
            return micro_batches_of_each(self.micro_batches, 1, world_size())
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    @property
    def at_once(self) -> int:
        """Micro-batches that are computed as one batch, at most; 1 if each is computed by itself."""
        return micro_batches_at_once(self.fuse_seconds, self.batch_seconds)

    @property
    def steps(self) -> int:
        """Batches of the loader in an update, each of one micro-batch or of some that are fused."""
        return num_groups(self.accumulate, self.at_once)

    @property
    def updates_done(self) -> int:
        """Updates of the run that are done."""
        done: int = getattr(self.trainer, "global_step", 0)
        return done

    def _update(self) -> int:
        return world_size() * self.accumulate

    def _use(self, split: DataSplit) -> None:
        self._split, self._train, self._val = split, split.train, split.validation
        self._manifests = dict(split.manifests)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the training data after the last complete update, and the options it depends on.

        The position is the trainer's count of batches that were trained on. Batches that worker processes and Lightning
        have prefetched are not counted, so a resumed run reads them again.
        """
        epoch, micro_batches = self._place
        if self.trainer is not None:
            epoch, on_each = resume_point(self.trainer).ahead
            micro_batches = on_each * self.accumulate // self.steps * world_size()
        place = {"epoch": epoch, "micro_batches": micro_batches, "update": self._update()}
        return {**place, "order": self._order(), "data": self._split.digests, "manifests": self._split.manifests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position at which the next training loader begins; must be called after `setup`.

        The sequence of micro-batches does not depend on the number of processes. If the number of micro-batches in an
        update has changed, the loader begins at the first micro-batch of an update, and repeats some of them.

        Raises:
            ValueError: The state is of a version of w2vlab that made other batches, or the corpus has changed.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        recorded = recorded_options(state_dict)
        if is_same_selection(recorded, self._order()):
            paths = " or ".join(self._split.manifests)
            self._use(restore_split(state_dict, self._split, self._read_split, paths, self.accept_changes))
        warn_about_order(recorded, self._order(), same_utterances=state_dict.get("data") == self._split.digests)
        done = first_micro_batch(state_dict["micro_batches"], state_dict["update"], self._update())
        self._place = (state_dict["epoch"], done)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Raises a ValueError, because Lightning's implementation imports and calls classes that a checkpoint names."""
        raise ValueError(
            f"`SpeechDataModule` must be built from its options, not from {checkpoint_path}: options never come from a "
            "checkpoint. `Trainer.fit(…, ckpt_path=…)` resumes at the position in the checkpoint."
        )
