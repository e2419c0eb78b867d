"""The files of units of a run: checked before its first update, and the same when it resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from w2vlab.interfaces import OfUtterances
from w2vlab.types import RunError
from w2vlab.utils.distributed import rank, same_error_on_all_processes
from w2vlab.utils.messages import one_line

UNITS = "w2vlab_units"
"""Key in a checkpoint: hashes of the ids of the run's utterances and of their units, by the part that reads them."""

_log = logging.getLogger(__name__)


def check_unit_files(
    module: nn.Module, utterances: Iterable[tuple[str, int]] | None, before: Mapping[str, Any], accept_changes: bool
) -> dict[str, tuple[str, str]]:
    """Checks that each file has all utterances of a run, and the same units of them as when the run was started.

    Args:
        module: The module whose parts read files.
        utterances: Id and samples at 16 kHz of each utterance; None if they are not known.
        before: The hashes of the checkpoint from which the run resumes; empty if it does not.
        accept_changes: Whether the run uses other units than before.

    Returns:
        Hashes of the ids of the utterances and of their units, by the name of the part; of those parts for which they
        are known.

    Raises:
        RunError: A file lacks an utterance, has it in another length, or has other units than before.
    """
    readers = {name: part for name, part in module.named_modules() if isinstance(part, OfUtterances)}
    found: dict[str, tuple[str, str]] = {}
    if not readers:
        return found
    # The utterances are the same on all processes, so the first one checks them; the others open their file alone.
    known = [] if utterances is None or rank() > 0 else list(utterances)
    with same_error_on_all_processes(RunError):
        for name, reader in readers.items():
            digest = reader.check_utterances(known)
            if digest is None:
                continue
            found[name] = digest
            ids, units = before.get(name, digest)
            # With other utterances, which are options of the data, nothing can be said.
            if ids == digest[0] and units != digest[1]:
                _refuse(name, accept_changes)
    return found


def units_in(checkpoint: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the hashes in a checkpoint, as `check_unit_files` has returned them; none if its run read no units.

    Raises:
        ValueError: They are damaged.
    """
    saved = checkpoint.get(UNITS)
    if saved is None:
        return {}
    digests = list(saved.values()) if isinstance(saved, Mapping) else [saved]
    for digest in digests:
        if not (
            isinstance(digest, tuple | list) and len(digest) == 2 and all(isinstance(text, str) for text in digest)
        ):
            raise ValueError(
                f"`{UNITS}` in a checkpoint must have two hashes for each part that reads units, but has "
                f"{one_line(repr(digest), 60)}: the checkpoint is damaged. Use an older one."
            )
    return {str(name): (ids, units) for name, (ids, units) in saved.items()}


def _refuse(name: str, accept_changes: bool) -> None:
    if not accept_changes:
        raise RunError(
            f"`model.{name}.path` must have the units that the run was started with, but they have changed. Restore "
            "them, start a new run without --ckpt_path, or resume with the units as they are now: "
            "--data.accept_changes=true."
        )
    _log.warning("Resuming with other units: those of model.%s.path have changed since the run was started.", name)
