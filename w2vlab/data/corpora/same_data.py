"""Keeps the data of a run the same: on all processes, and when the run is resumed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch.distributed as dist

from w2vlab.data.corpora.splits import DataSplit
from w2vlab.types import RunError
from w2vlab.utils.distributed import is_distributed, rank, world_size
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)


def share_fingerprints(prepared: Mapping[str, str]) -> dict[str, str]:
    """All-gathers the fingerprints of the manifests, because only some processes have scanned the corpora.

    The latest manifest in the cache could be another one: another run may scan the corpus at the same time.

    Args:
        prepared: Fingerprint of the manifest of each corpus, on a process that has scanned; empty on others.

    Returns:
        The fingerprints of a process that has scanned, preferably one on the same node.
    """
    if not is_distributed():
        return dict(prepared)
    host = socket.gethostname()
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, (host, dict(prepared)))
    scanned = [(other, fingerprints) for other, fingerprints in gathered if fingerprints]
    scanned.sort(key=lambda entry: entry[0] != host)  # if no process of this node has scanned, the cache is shared
    return dict(prepared or (scanned[0][1] if scanned else {}))


def check_same_data_on_all_processes(digests: Mapping[str, str]) -> None:
    """Checks that all processes have the same utterances; a node may have an older copy of the corpus.

    Args:
        digests: `DataSplit.digests` on this process.

    Raises:
        RunError: They differ between processes.
    """
    if not is_distributed():
        return
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, (socket.gethostname(), dict(digests)))
    first_host, first_digests = gathered[0]
    different = sorted({host for host, others in gathered if others != first_digests})
    if different:
        which = _names_of_changes(first_digests, next(others for _, others in gathered if others != first_digests))
        raise RunError(
            f"`data.corpus` must be the same on all processes, but on {', '.join(different)} it differs from that on "
            f"{first_host}{which and f' ({which})'}. Copy the corpus again, or read it from a disk that nodes share."
        )


def restore_split(
    state: Mapping[str, Any],
    current: DataSplit,
    read: Callable[[Mapping[str, str]], DataSplit],
    paths: str,
    accept_changes: bool,
) -> DataSplit:
    """Returns the utterances that a run was started with, although others have been added to its corpus.

    Args:
        state: State of the data module in the checkpoint.
        current: Utterances of the corpus as it is now, selected by the same options.
        read: Reads manifests by their fingerprints; raises a RuntimeError if one of them has been removed.
        paths: Paths of the corpora, for messages about a run without a mixture.
        accept_changes: Whether the run uses the corpus as it is now.

    Raises:
        ValueError: Utterances that the run was started with have been removed or changed.
    """
    recorded = state.get("data")
    if recorded in (None, current.digests):
        return current
    corpora = _names_of_changes(recorded, current.digests) or paths
    if accept_changes:
        if rank() == 0:
            logger.warning("Resuming with other data: %s has changed since the run was started.", corpora)
        return current
    try:
        original = read(state["manifests"])
    except RuntimeError:
        raise ValueError(_changed_data_message(corpora, None)) from None
    missing, new = _count_changes(original, current)
    if missing or original.digests != recorded:
        raise ValueError(_changed_data_message(corpora, missing))
    if rank() == 0:
        logger.warning(
            "%s has changed since the run was started: it has %s. Resuming with the utterances of the start, %s to "
            "train on; --data.accept_changes=true uses the corpus as it is now.",
            corpora,
            count(new, "new utterance"),
            count(len(original.train), "utterance"),
        )
    return original


def _names_of_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns the names of the corpora that differ, of a mixture or of augmentations; an empty string if not known.

    Args:
        before: `DataSplit.digests`, and those of the corpora of augmentations by their paths.
        now: Those of another split.
    """
    different = [key for key in dict.fromkeys((*before, *now)) if before.get(key) != now.get(key)]
    parts = ("train", "validation")  # of all corpora together
    names = [key.removeprefix("train/").removeprefix("validation/") for key in different if key not in parts]
    return ", ".join(dict.fromkeys(names))


def _count_changes(original: DataSplit, current: DataSplit) -> tuple[int, int]:
    """Returns the number of utterances that were removed or changed, and of those that are new or changed."""
    before, after = (
        np.concatenate([part.keys_in_mixture for part in (split.train, split.validation)])
        for split in (original, current)
    )
    return len(np.setdiff1d(before, after)), len(np.setdiff1d(after, before))


def _changed_data_message(corpora: str, missing: int | None) -> str:
    """Returns the error message for a corpus that has changed.

    Args:
        corpora: Names of the corpora.
        missing: Number of utterances that were removed or changed; 0 if only transcripts or exclusions have changed;
            None if the original manifest has been removed.
    """
    if missing is None:
        reason = "its manifest of the start of the run is no longer in the cache"
    elif missing:
        reason = f"{count(missing, 'utterance')} {'has' if missing == 1 else 'have'} been removed or changed"
    else:
        reason = "its transcripts, or the ids in `data.exclude`, are different"
    return (
        f"`data.corpus` must be as at the start of the run, but {corpora} has changed: {reason}. Restore it, or "
        "resume with the corpus as it is now: --data.accept_changes=true."
    )
