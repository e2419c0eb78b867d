"""What a part may do besides: follow the number of updates, learn from statistics, be compiled, read files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor


class StepDependent(ABC):
    """Something whose behaviour is a function of the number of updates, such as an annealed temperature."""

    @abstractmethod
    def set_update(self, update: int, seed: int = 0) -> None:
        """Moves to the state that belongs to `update` optimiser updates done.

        The state must follow from `update` alone and not from the number of calls: the module passes the trainer's
        count, so that a resumed run continues at the same state and gradient accumulation changes nothing.

        Args:
            update: Optimiser updates done.
            seed: The seed of the run, for draws that are made once an update and are equal on all processes.
        """

    @abstractmethod
    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns the scheduled values after `update` updates, by their names in the logs."""


class LearnsByStatistics(ABC):
    """Something that learns from statistics of an update and not by gradient, such as moving averages.

    In training, `forward` may collect statistics but must not change the state, because an update has as many forward
    passes as micro-batches. The statistics must not be a registered buffer, because DDP overwrites buffers with those
    of the first process.
    """

    @abstractmethod
    def finish_update(self, update: int, skipped: Tensor | None = None) -> None:
        """Learns from the statistics of all processes since the last call.

        The module calls it on every process, once an update, after the last backward pass.

        Args:
            update: Optimiser updates done before this one.
            skipped: True, shape `()` and on the device, if the update must not change the state; None for false.
        """

    @abstractmethod
    def forget_update(self) -> None:
        """Discards the statistics since the last call of `finish_update`."""


class Compilable:
    """A module that `torch.compile` can take in one piece, once for batches of all lengths.

    The `forward` of a subclass takes and returns only tensors or None, and constants that say what to return. It reads
    nothing else that differs from batch to batch: lengths and draws on the host are made by the caller. `CompileModel`
    compiles each such module that is not inside another one, and leaves other modules as they are.
    """


class OfUtterances(ABC):
    """Something that reads what belongs to an utterance from a file, by its id, such as units.

    Attributes:
        dry_run: Whether utterances are invented, as in `w2vlab explain`: it then draws at random, and reads no file.
    """

    dry_run: bool = False

    @abstractmethod
    def check_utterances(self, utterances: Iterable[tuple[str, int]]) -> tuple[str, str] | None:
        """Checks before training that the file has all utterances, and that they have the right length.

        Args:
            utterances: Id and samples at 16 kHz of each utterance that is trained or validated on.

        Returns:
            Hashes of their ids and of what the file has of them, which a resumed run compares; None without utterances.

        Raises:
            RunError: An utterance is missing or has another length; it is named.
        """
