"""Compares the options that decide the order of the batches, when a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from w2vlab.utils.distributed import rank

logger = logging.getLogger(__name__)

MIN_SAMPLES_KEY = "samples of the shortest utterance"
"""Key in a checkpoint of the fewest samples that an utterance may have, which depends on the model too."""

AUGMENTATIONS_KEY = "data.augmentations"
"""Key in a checkpoint of the augmentations, with their options and the fingerprints of their corpora, as text."""

SELECTION_OPTIONS = (
    *("data.corpus", "data.validation", "data.validation_fraction", "data.exclude"),
    *("data.min_seconds", "data.max_seconds", MIN_SAMPLES_KEY),
)
"""Those of the recorded options that select utterances; a user who changes one wants other utterances."""

ORDER_OPTIONS = (
    "corpus",
    "validation",
    "validation_fraction",
    "exclude",
    "min_seconds",
    "max_seconds",
    "batch_seconds",
    "num_buckets",
    "seed",
)
"""Options that must be unchanged for a position in the training data to mean the same batch."""


def recorded_options(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the options that a checkpoint has recorded, from the state of the data module.

    Raises:
        ValueError: The checkpoint is of an earlier version of w2vlab, which made other batches.
    """
    if "order" not in state:
        raise ValueError(
            "`ckpt_path` must be a checkpoint of this version of w2vlab, but is of one that made other batches. "
            "Start a new run, or only validate the checkpoint."
        )
    options: Mapping[str, Any] = state["order"]
    return options


def is_same_selection(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Returns whether the options that select utterances are those of the checkpoint."""
    return all(recorded.get(name, current[name]) == current[name] for name in SELECTION_OPTIONS)


def warn_about_order(recorded: Mapping[str, Any], current: Mapping[str, Any], same_utterances: bool) -> None:
    """Logs a warning on rank 0 if options that decide the order or the audio of the batches have changed.

    Args:
        recorded: The options in the checkpoint.
        current: The options of the resumed run.
        same_utterances: Whether the utterances are the same, so that other paths of the corpora do not matter.
    """
    changed = [
        f"{name} {current[name]} (the checkpoint had {before})"
        for name, before in recorded.items()
        if name != AUGMENTATIONS_KEY
        and current[name] != before
        and not (same_utterances and name in ("data.corpus", "data.validation"))
    ]
    before, now = (options.get(AUGMENTATIONS_KEY, "") for options in (recorded, current))
    if before != now and rank() == 0:
        logger.warning(
            "Resuming with `data.augmentations` %s (the checkpoint had %s): audio is changed differently from here on.",
            now or "none",
            before or "none",
        )
    if changed and rank() == 0:
        logger.warning(
            "Resuming with %s: batches are made differently, so some utterances of this epoch may be used twice "
            "or not at all.",
            ", ".join(changed),
        )
