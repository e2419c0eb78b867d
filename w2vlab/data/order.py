"""Compares the options that decide the order of the batches, when a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from w2vlab.data.corpora.splits import DataSplit
from w2vlab.data.mixtures.sources import CorpusSource
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
    "validation_fraction",
    "exclude",
    "min_seconds",
    "max_seconds",
    "batch_seconds",
    "seed",
    "shuffle_shards",
    "quadratic_seconds",
)
"""Options that must be unchanged for a position in the training data to mean the same batch, beside the corpora."""

DATA_OPTIONS = ("corpus", "validation", "alpha", "max_uses", *ORDER_OPTIONS, "num_buckets")
"""Options that decide which utterances are trained on and in which order."""

PLANNER_KEY = "batches planned by"

PLANNER = "w2vlab 1"
"""Version of how an epoch is divided into batches; raise it with every change of the batches of the same options."""

_FIRST_PLANNER = "lhotse's DynamicBucketingSampler"
"""Planner of checkpoints that do not name one."""


def order_of(
    options: Any,
    split: DataSplit,
    corpora: Sequence[CorpusSource],
    validation: Sequence[CorpusSource],
    num_buckets: int,
) -> dict[str, Any]:
    """Returns the options that decide the order of the batches, for the state in a checkpoint.

    Args:
        options: Has the `ORDER_OPTIONS`, and those of a mixture, as attributes.
        split: The utterances.
        corpora: Corpora to train on.
        validation: Corpora to validate on.
        num_buckets: Number of buckets, whose default depends on the corpora.
    """
    order = {
        "data.corpus": _paths(corpora),
        "data.validation": _paths(validation),
        **{f"data.{name}": getattr(options, name) for name in ORDER_OPTIONS},
        "data.num_buckets": num_buckets,
        MIN_SAMPLES_KEY: options.min_samples,
        "utterances to train on": len(split.train),
        PLANNER_KEY: PLANNER,
    }
    if split.mixture:
        order |= {f"data.{name}": getattr(options, name) for name in ("alpha", "max_uses")}
        order["uses an epoch"] = {corpus.name: corpus.uses for corpus in split.mixture}
    return order


def _paths(corpora: Sequence[CorpusSource]) -> Any:
    """Returns the path of a single corpus, those of a mixture by their names, or None for no corpus."""
    if corpora and corpora[0].name is not None:
        return {str(source.name): source.path for source in corpora}
    return corpora[0].path if corpora else None


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
        f"{name} {now} (the checkpoint had {before})"
        for option, recorded_value in {PLANNER_KEY: _FIRST_PLANNER, **recorded}.items()
        if option != AUGMENTATIONS_KEY and not (same_utterances and option in ("data.corpus", "data.validation"))
        for name, before, now in _differences(option, recorded_value, current.get(option))
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


def _differences(option: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, old and new value of an option that has changed; of mixtures, those of each corpus."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            yield from _differences(f"{option} of {name}", before.get(name), now.get(name))
    elif before != now:
        yield option, before, now
