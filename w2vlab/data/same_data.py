"""A run has the data that it began with: on all of its processes, and when it goes on."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist

from w2vlab.data.utterances import Utterances
from w2vlab.distributed import is_distributed, rank, world_size
from w2vlab.types import RunError
from w2vlab.wording import count

logger = logging.getLogger(__name__)

SHORTEST = "samples of the shortest utterance"
"""What is recorded of a model's need of longer ones."""

CHOOSES = (
    *("data.corpus", "data.validation", "data.validation_fraction", "data.exclude"),
    *("data.min_seconds", "data.max_seconds", SHORTEST),
)
"""What chooses utterances, of all that decides their order: who changes one wants others."""


@dataclass(frozen=True)
class Split:
    """What a run trains and validates on.

    Attributes:
        train: Utterances to train on.
        validation: Those to validate on.
        manifests: The fingerprint of the manifest of each corpus.
    """

    train: Utterances
    validation: Utterances
    manifests: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """What both are, the same wherever the corpora are."""
        return {"train": self.train.digest, "validation": self.validation.digest}


def agreed(prepared: Mapping[str, str]) -> dict[str, str]:
    """Returns the manifests of a run, on every process those of the one that has scanned for its machine.

    What lies in the cache is no answer: another run may scan a corpus at the same moment.

    Args:
        prepared: The fingerprint of each corpus, of a process that has scanned; empty on others.
    """
    if not is_distributed():
        return dict(prepared)
    here = socket.gethostname()
    all_of_them: list[Any] = [None] * world_size()
    dist.all_gather_object(all_of_them, (here, dict(prepared)))
    scanned = [(host, found) for host, found in all_of_them if found]
    scanned.sort(key=lambda answer: answer[0] != here)  # where one machine scans for all, they share the cache
    return dict(prepared or (scanned[0][1] if scanned else {}))


def check_that_processes_agree(digests: Mapping[str, str]) -> None:
    """Ends a run whose processes do not have the same utterances, such as those of a node with an older copy.

    Raises:
        RunError: They differ.
    """
    if not is_distributed():
        return
    all_of_them: list[Any] = [None] * world_size()
    dist.all_gather_object(all_of_them, (socket.gethostname(), dict(digests)))
    different = sorted({host for host, found in all_of_them if found != all_of_them[0][1]})
    if different:
        raise RunError(
            f"`data.corpus` must be the same on all processes, but on {', '.join(different)} it is not what it is on "
            f"{all_of_them[0][0]}. Copy the corpus anew, or read it from a disk that all nodes share."
        )


def keep_to(
    state: Mapping[str, Any], now: Split, read: Callable[[Mapping[str, str]], Split], corpora: str, accept: bool
) -> Split:
    """Goes back to the utterances that a run began with, where others have come to its corpus since.

    Args:
        state: What the checkpoint has of the data.
        now: What is there now, by the same options.
        read: Reads manifests by their fingerprints; raises a RuntimeError where one is not there.
        corpora: What the run reads, in words.
        accept: Whether it takes what is there now.

    Returns:
        What the run is to have.

    Raises:
        ValueError: What it began with is not all there any more.
    """
    before = state.get("data")
    if before in (None, now.digests):
        return now
    if accept:
        if rank() == 0:
            logger.warning("Resuming with other data: %s has changed since the run began.", corpora)
        return now
    try:
        then = read(state["manifests"])
    except RuntimeError:
        raise ValueError(_refusal(corpora, None)) from None
    gone, new = _changes(then, now)
    if gone or then.digests != before:
        raise ValueError(_refusal(corpora, gone))
    if rank() == 0:
        logger.warning(
            "%s has changed since the run began, by %s: going on with what it began with, %s to train on. "
            "--data.accept_changes=true takes what is there now.",
            corpora,
            count(new, "new utterance"),
            count(len(then.train), "utterance"),
        )
    return then


def _changes(then: Split, now: Split) -> tuple[int, int]:
    """Returns how many of the utterances of then are gone or changed, and how many are new or changed."""
    before, after = (np.concatenate([split.train.keys, split.validation.keys]) for split in (then, now))
    return len(np.setdiff1d(before, after)), len(np.setdiff1d(after, before))


def _refusal(corpora: str, gone: int | None) -> str:
    """Says why a run does not go on.

    Args:
        corpora: What has changed.
        gone: Utterances that are gone or changed; 0 where all audio is there; None where that cannot be said.
    """
    if gone is None:
        what = "the list of what it was is no longer in the cache"
    elif gone:
        what = f"{count(gone, 'utterance')} of it {'is' if gone == 1 else 'are'} gone or changed"
    else:
        what = "its transcripts, or the ids that `data.exclude` names, are not what they were"
    return (
        f"`data.corpus` must be what the run began with, but {corpora} has changed since, and {what}. Restore it, or "
        "resume with what is there now: --data.accept_changes=true."
    )
