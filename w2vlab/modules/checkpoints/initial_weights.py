"""Where the initial weights of a model come from: a warm start from another model, part by part, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

_skipped: ContextVar[bool] = ContextVar("warm_start_skipped", default=False)


@dataclass(frozen=True, kw_only=True)
class InitialPart:
    """The initial weights of one part.

    Attributes:
        part: Name of the part, such as `encoder`.
        loaded: Whether they are those of the source; otherwise they are new.
        parameters: Number of values in its tensors.
        why: Why they are new, or what is known about them.
    """

    part: str
    loaded: bool
    parameters: int
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a warm start loaded.

    Attributes:
        source: The source, as typed.
        format: Its format, such as `transformers`.
        architecture: Its class or model name, such as `Wav2Vec2ForPreTraining`.
        parts: Every part of the model that has weights.
        unused: Parts of the source that the model does not have, such as `head`.
        notes: What a user should know about the source, such as an assumption that was made, one sentence each.
    """

    source: str
    format: str
    architecture: str
    parts: tuple[InitialPart, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data that is valid JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def title(self) -> str:
        """The source, in a line."""
        kind = f"{self.format}, {self.architecture}" if self.architecture else self.format
        return f"Warm start from {self.source} ({kind})"

    def lines(self) -> list[str]:
        """Returns the table in short lines."""
        loaded = sum(part.parameters for part in self.parts if part.loaded)
        total = sum(part.parameters for part in self.parts)
        lines = [f"{self.title}:", f"  {loaded:,} of {total:,} parameters; optimizer and schedule are new"]
        for part in self.parts:
            why = f" ({part.why})" if part.why else ""
            lines.append(f"  {part.part}: {'loaded' if part.loaded else 'new'}, {part.parameters:,} parameters{why}")
        return lines + [f"  {line}" for line in self.remarks()]

    def remarks(self) -> list[str]:
        """Returns what the table does not show."""
        unused = [f"not used of the source: {', '.join(self.unused)}"] if self.unused else []
        return unused + [f"note on the source: {note}" for note in self.notes]


@contextmanager
def without_warm_start() -> Iterator[None]:
    """Modules that are built inside keep the option `init_from`, but do not read its source.

    Their weights come from a checkpoint, or are to be random (the control of an evaluation); and the source may no
    longer exist.
    """
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def is_warm_start_skipped() -> bool:
    """Returns whether the caller is inside of `without_warm_start`."""
    return _skipped.get()
