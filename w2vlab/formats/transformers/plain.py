"""JSON files of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.utils.files import replace_atomically
from w2vlab.utils.plain_data import read_json


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Returns the content of a JSON file with a mapping; None if it does not exist.

    Raises:
        ValueError: It cannot be read, or is not a mapping.
    """
    if not path.exists():
        return None
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a JSON file, but cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping, but is not.")
    return content


def write_mapping(path: Path, content: Mapping[str, Any], sort: bool = True) -> None:
    """Writes a mapping as transformers does: sorted, indented by two spaces.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(content, indent=2, sort_keys=sort, ensure_ascii=False) + "\n"
    with replace_atomically(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
