"""Says how a corpus in the form of another program is given to w2vlab, where it would otherwise only be refused."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.data.audio.probing import EXTENSIONS
from w2vlab.data.corpora.packaged.asterisk import GROUP, NAMES
from w2vlab.data.shards.sources import Source
from w2vlab.registry import did_you_mean

_MOST_ENTRIES = 10_000
"""Entries of a folder that are looked at, so that advice does not take long."""

_MOST_CHARACTERS = 4096
"""Length of the beginning of a file that is read."""

_FOLDER_OR_TSV = (
    "give the folder of its audio, or a fairseq manifest: a .tsv with the folder in its first line, and PATH, a tab "
    "and the number of samples in each other one"
)
_TABLES = {".parquet", ".arrow", ".csv", ".xlsx"}


def about_missing(corpus: str, names: tuple[str, ...]) -> str:
    """Returns advice on a corpus that is no existing path, or an empty string; it begins with a space.

    Args:
        corpus: The corpus as typed.
        names: The names of sample corpora.
    """
    if corpus == GROUP:
        parts = {name.removeprefix(f"{GROUP}-"): name for name in NAMES}
        return f" It has {len(parts)} corpora: --data.corpus='{mapping_text(parts)}'."
    if _is_recipe(corpus):
        return f" lhotse has a recipe for it: `w2vlab prepare {corpus} OUT`, then --data.corpus=OUT."
    if re.fullmatch(r"\{.*[:,].*\}|\[.*\]", corpus, re.DOTALL):  # `fit` has taken it apart
        return " Here one corpus is read, and no mixture: run the command once for each."
    if "*" in corpus or "?" in corpus:
        return " Patterns are not expanded: give the folder, or for tars a range of numbers such as {000000..000099}."
    if re.search(r"\{[^{}]*,[^{}]*\}", corpus) or "::" in corpus:
        return (
            " Of braces only a range of numbers is read, such as {000000..000099}; give the folder of the tars, or a "
            "list: --data.corpus='[A, B]'."
        )
    if "," in corpus:
        several = [part.strip() for part in corpus.split(",")]
        if all(part in names or Path(part).expanduser().exists() for part in several):
            return f" Several corpora are a list in brackets: --data.corpus='[{', '.join(several)}]'."
    if near := did_you_mean(corpus, names):
        return near
    if re.fullmatch(r"[\w.-]+/[\w.-]+", corpus) and not Path(corpus).parent.exists():
        return (
            " A data set of the Hugging Face hub is not loaded by its name: download its files, and give their folder "
            "if they are audio or tars."
        )
    return ""


def about_file(path: Path) -> str:
    """Returns advice on a file that is no corpus, or an empty string; it begins with a space.

    Args:
        path: The existing file.
    """
    if path.suffix.lower() in EXTENSIONS:
        return f" One file is no corpus: give its folder, {path.parent}."
    if path.name in ("wav.scp", "segments", "utt2spk"):
        return _about_kaldi(path.parent)
    if path.suffix.lower() in _TABLES:
        return f" A table is not read: {_FOLDER_OR_TSV}."
    first = _first_record(path)
    if first is None or first.keys() & {"recording", "sources", "tracks"}:  # one that lhotse knows
        return ""
    if "audio_filepath" in first:
        return f" It is a manifest of NeMo, which is not read: {_FOLDER_OR_TSV}."
    return f" It is no manifest of lhotse, but has {_listed(sorted(map(str, first)))}: {_FOLDER_OR_TSV}."


def about_table(line: str) -> str:
    """Returns advice on the first line of a `.tsv` that is no folder; it begins with a space.

    Args:
        line: The line.
    """
    columns = line.split("\t")
    if len(columns) < 2 or not all(re.fullmatch(r"[A-Za-z][\w ]*", column) for column in columns):
        return ""
    return f" These are names of columns, as in Common Voice, and not a fairseq manifest: {_FOLDER_OR_TSV}."


def about_folder(source: Source) -> str:
    """Returns that a corpus has no audio, and advice on a folder.

    Args:
        source: The corpus, in which no audio was found.
    """
    kinds = ", ".join(sorted(ending.strip(".") for ending in EXTENSIONS))
    advice = _about_folder(source) if isinstance(source, Path) and source.is_dir() else ""
    return f"there is no audio file ({kinds}).{advice}"


def _about_folder(folder: Path) -> str:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in itertools.islice(entries, _MOST_ENTRIES))
    except OSError:
        return ""
    if prepared := [name for name in found if (folder / name / "prepare.json").is_file()]:
        parts = {name: os.path.join(folder, name) for name in prepared}
        return f" It has several prepared corpora: --data.corpus='{mapping_text(parts)}'."
    if "wav.scp" in found:
        return _about_kaldi(folder)
    manifests = [name for name in found if name.endswith((".tsv", ".jsonl", ".jsonl.gz"))]
    if manifests:
        best = min(manifests, key=lambda name: (not name.startswith(("train.", "cuts")), name))
        return f" Give one of its manifests: {folder / best}."
    if any(name.endswith(".json") and "audio_filepath" in (_first_record(folder / name) or {}) for name in found):
        return f" It has a manifest of NeMo, which is not read: {_FOLDER_OR_TSV}."
    endings = {os.path.splitext(name)[1].lower() for name in found}
    if endings & _TABLES:
        return " Audio within tables of Parquet or Arrow is not read: write files, or tars of WebDataset."
    if endings & {".tar", ".tgz"}:
        return " Give its tars as a range of numbers, such as {000000..000099}."
    return ""


def _about_kaldi(folder: Path) -> str:
    return (
        f" It is a data folder of Kaldi: `lhotse kaldi import {folder} 16000 OUT` (with its sampling rate), then "
        "--data.corpus=OUT/recordings.jsonl.gz."
    )


def _first_record(path: Path) -> dict[str, Any] | None:
    """Returns the first object of a file of JSON or JSON lines; None if it is something else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(_MOST_CHARACTERS).decode("utf-8-sig", errors="replace").lstrip().lstrip("[").lstrip()
    except (OSError, EOFError):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        value = dict.fromkeys(re.findall(r'^\{\s*"(\w+)"\s*:', text))  # its first key, of an object that is longer
    return value if isinstance(value, dict) and value else None


def _is_recipe(name: str) -> bool:
    if not re.fullmatch(r"\w+", name):
        return False
    return hasattr(importlib.import_module("lhotse.recipes"), f"prepare_{name}")


def mapping_text(corpora: Mapping[str, str]) -> str:
    """Returns corpora by their names as `--data.corpus` takes them: `{a: PATH, b: PATH}`."""
    return f"{{{', '.join(f'{name}: {path}' for name, path in corpora.items())}}}"


def _listed(names: list[str]) -> str:
    shown = names[:4]
    return f"{', '.join(shown)}{', …' if len(names) > len(shown) else ''}"
