"""The place of a run in its data, for checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.data.batches.micro_batches import first_micro_batch
from w2vlab.data.corpora.same_data import restore_split
from w2vlab.data.corpora.splits import DataSplit
from w2vlab.data.order import is_same_selection, recorded_options, warn_about_order
from w2vlab.utils.distributed import world_size
from w2vlab.utils.resume_point import resume_point


class ResumableData(LightningDataModule, ABC):
    """Saves the place of a run in its training data, and restores it with the utterances of the start of the run."""

    accept_changes: bool

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
        """Accumulated micro-batches of each process."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

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
            micro_batches = on_each * world_size()
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
