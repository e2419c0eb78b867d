"""Published results for the rows of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """The published results of one sweep.

    Attributes:
        source: The paper, with the table or section.
        outcome: The published metric.
        rows: Rows with `parameters`, `mean` and `deviation`.
    """

    source: str
    outcome: str
    rows: tuple[dict[str, Any], ...]

    def text(self, parameters: Mapping[str, Any]) -> str:
        """Returns the result of the first row whose parameters are all in `parameters`; empty if no row matches."""
        for row in self.rows:
            if all(name in parameters and parameters[name] == value for name, value in row["parameters"].items()):
                return f"{row['mean']:g}" + (f" ± {row['deviation']:g}" if row.get("deviation") is not None else "")
        return ""


def load_published(sweep: str, path: Path = PUBLISHED) -> Published | None:
    """Returns the published results of a sweep, full-size or small; None if there are none.

    Raises:
        ValueError: The file is invalid.
    """
    if not path.is_file():
        return None
    try:
        entry = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(sweep.removesuffix("_small"))
        return None if entry is None else Published(entry["source"], entry["outcome"], tuple(entry["rows"]))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as problem:
        raise ValueError(f"{path} must have source, outcome and rows of each sweep: {problem!r}.") from None
