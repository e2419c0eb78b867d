"""Models of the Hugging Face Hub: from the local cache, or downloaded.

The cache has a folder for each model, `models--ORG--NAME`, with the commit of each branch in `refs/` and the files of
each commit in `snapshots/`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from w2vlab.utils.messages import one_line

PREFIX = "hf:"
"""Start of the name of a model on the Hub, as in `hf:facebook/wav2vec2-base`."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[\w.-]+(?:/[\w.-]+)*")
_CACHE_FOLDER = re.compile(r"models--(.+)")

_OPTIONS = ("*.json",)
_WEIGHTS = ("model*.safetensors",)
_PICKLES = ("pytorch_model*.bin",)
"""Patterns of the files that are read; pickles only if there are no safetensors."""

_ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""Of files, which no name of a model has."""

_NUM_SHOWN = 200


def is_hub_name(source: str | Path) -> bool:
    """Returns whether a source is the name of a model on the Hub, `hf:ORG/NAME`."""
    return isinstance(source, str) and source.startswith(PREFIX)


def may_be_hub_name(source: str | Path) -> bool:
    """Returns whether a source looks like `ORG/NAME`, the name of a model on the Hub without its prefix."""
    text = str(source)
    return text.count("/") == 1 and not text.endswith(_ENDINGS) and _NAME.fullmatch(text) is not None


def hub_folder(source: str, name: str = "source") -> Path:
    """Returns the local folder with the files of a model on the Hub, downloaded if necessary.

    Args:
        source: `hf:ORG/NAME`, or `hf:ORG/NAME@REVISION` with a branch, a tag or a commit; `main` by default.
        name: Option with the source, for errors.

    Raises:
        ValueError: The name is not one, or the model is not in the cache and cannot be downloaded.
    """
    model, _, revision = source.removeprefix(PREFIX).partition("@")
    revision = revision or "main"
    parts = revision.split("/")
    if not _NAME.fullmatch(model) or not _REVISION.fullmatch(revision) or {".", ".."} & {*parts, *model.split("/")}:
        raise ValueError(
            f"`{name}` must be hf:ORG/NAME or hf:ORG/NAME@REVISION, but is {one_line(source, _NUM_SHOWN)}."
        )
    cached = _snapshot(cache_folder() / f"models--{model.replace('/', '--')}", revision)
    if cached is not None and _is_complete(cached):
        return cached
    return _download(model, revision, source, name)


def snapshot_of(folder: Path) -> Path:
    """Returns the newest files of a model's folder in the cache, `models--ORG--NAME`; any other folder as it is.

    Args:
        folder: A folder.

    Raises:
        ValueError: The folder in the cache has no files.
    """
    if not _CACHE_FOLDER.fullmatch(folder.name) or not (folder / "snapshots").is_dir():
        return folder
    found = _snapshot(folder, "main")
    if found is None:  # downloaded by its commit or another branch
        commits = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        if not commits:
            raise ValueError(f"{folder} must have the files of a model below snapshots, but has none.")
        found = max(commits, key=lambda path: path.stat().st_mtime)
    return found


def cache_folder() -> Path:
    """Returns the folder of the Hub's cache, by the environment variables of `huggingface_hub`."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _snapshot(folder: Path, revision: str) -> Path | None:
    """Returns the files of a revision in a model's folder of the cache; None if they are not there."""
    direct = folder / "snapshots" / revision
    if "/" not in revision and direct.is_dir():
        return direct
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    found = folder / "snapshots" / commit
    return found if re.fullmatch(r"[\w-]+", commit) and found.is_dir() else None


def _is_complete(folder: Path) -> bool:
    """Returns whether a snapshot has options and weights; other programs may have downloaded only some files."""
    return any(folder.glob("*.json")) and any(any(folder.glob(pattern)) for pattern in (*_WEIGHTS, *_PICKLES))


def _download(model: str, revision: str, source: str, name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"`{name}` must be in the cache of the Hub ({cache_folder()}), but {source} is not, and huggingface_hub is "
            "not installed to download it: pip install huggingface_hub, or give a folder."
        ) from None
    try:
        for weights in (_WEIGHTS, _PICKLES):
            found = Path(
                snapshot_download(
                    model, revision=revision, cache_dir=cache_folder(), allow_patterns=[*_OPTIONS, *weights]
                )
            )
            if _is_complete(found):
                return found
    except Exception as error:  # no network, no such model, no access: several libraries with exceptions of their own
        reason = one_line(" ".join(str(error).split()), _NUM_SHOWN) or type(error).__name__
        raise ValueError(
            f"`{name}` must be in the cache of the Hub ({cache_folder()}) or be downloaded, but {source} is not in "
            f"it and cannot be: {reason}"
        ) from error
    raise ValueError(f"`{name}` must have weights, but {source} has none of {', '.join((*_WEIGHTS, *_PICKLES))}.")
