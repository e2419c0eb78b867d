"""Maps between our names of tensors and those of other projects, in both directions from one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from w2vlab.formats.published import LazyWeights
from w2vlab.utils.messages import one_line

_NUM_LISTED = 3
"""Number of names that an error lists."""

_NUM_SHOWN = 100
"""Characters of a name that an error shows; files may have any names."""


def unchanged(tensor: Tensor) -> Tensor:
    """Returns `tensor`."""
    return tensor


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of our tensors, and where a file of another project has it.

    Attributes:
        ours: Our name.
        theirs: Names in the file; several are concatenated along the first dimension in this order, in equal parts.
        to_ours: Converts the (concatenated) tensor of the file to our shape.
        to_theirs: Converts our tensor to the (concatenated) tensor of the file.
        optional: Whether the file may lack it, such as the mask embedding of a fine-tuned model.
    """

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable[[Tensor], Tensor] = unchanged
    to_theirs: Callable[[Tensor], Tensor] = unchanged
    optional: bool = False


def renamed_to_ours(
    tensors: Mapping[str, Tensor],
    entries: Iterable[Entry],
    source: object,
    ignored: Callable[[str], bool] | None = None,
) -> LazyWeights:
    """Returns the tensors of a file by our names; each is read and converted on access.

    Args:
        tensors: The tensors of the file.
        entries: The table. An optional entry that the file lacks is left out.
        source: Path of the file, for errors.
        ignored: Returns whether a tensor of the file is left out without an error.

    Raises:
        ValueError: A tensor is missing, or the file has one that the table does not name.
    """
    readers: dict[str, Callable[[], Tensor]] = {}
    used: set[str] = set()
    missing: list[str] = []
    for entry in entries:
        absent = [name for name in entry.theirs if name not in tensors]
        if absent and entry.optional and len(absent) == len(entry.theirs):
            continue
        missing += absent
        used.update(entry.theirs)
        readers[entry.ours] = partial(_read, tensors, entry)
    extra = [name for name in tensors if name not in used and not (ignored is not None and ignored(name))]
    if missing or extra:
        found = [f"{_listed(names)} {kind}" for names, kind in ((missing, "missing"), (extra, "unknown")) if names]
        top = extra[0].partition(".")[0] if extra else ""
        how = f" To leave some out: the option ignore, such as --options.ignore=[{top}]." if extra else ""
        raise ValueError(f"{source} must have the tensors of its configuration, but {' and '.join(found)}.{how}")
    return LazyWeights(readers)


def without(tensors: Mapping[str, Tensor], ignore: Sequence[str]) -> Mapping[str, Tensor]:
    """Leaves out the tensors with a name of `ignore`, and those below it (`classifier` for `classifier.weight`)."""
    if not ignore:
        return tensors
    below = tuple(f"{name}." for name in ignore)
    kept = [name for name in tensors if name not in ignore and not name.startswith(below)]
    return LazyWeights({name: partial(tensors.__getitem__, name) for name in kept})


def identity_projection(name: str, like: Tensor) -> dict[str, Tensor]:
    """Returns a projection that changes nothing, of the width and type of a vector, for those that always project."""
    width = len(like)
    return {f"{name}.weight": torch.eye(width, dtype=like.dtype), f"{name}.bias": torch.zeros(width, dtype=like.dtype)}


def renamed_to_theirs(weights: Mapping[str, Tensor], entries: Iterable[Entry]) -> dict[str, Tensor]:
    """Returns our tensors by the names of another project; an optional entry that `weights` lacks is left out."""
    theirs: dict[str, Tensor] = {}
    for entry in entries:
        if entry.optional and entry.ours not in weights:
            continue
        tensor = entry.to_theirs(weights[entry.ours].detach())
        parts = tensor.chunk(len(entry.theirs)) if len(entry.theirs) > 1 else (tensor,)
        theirs.update(zip(entry.theirs, (part.contiguous() for part in parts), strict=True))
    return theirs


def _read(tensors: Mapping[str, Tensor], entry: Entry) -> Tensor:
    parts = [tensors[name] for name in entry.theirs]
    return entry.to_ours(torch.cat(parts) if len(parts) > 1 else parts[0])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(one_line(name, _NUM_SHOWN) for name in names[:_NUM_LISTED])}{more} {verb}"
