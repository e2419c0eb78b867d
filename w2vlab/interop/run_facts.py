"""What is known of the run that trained a checkpoint, without anything personal: for the model card."""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.data.corpora.sample_corpora import NAMES, SAMPLE
from w2vlab.data.mixtures.sources import paths_of
from w2vlab.formats.files.hub import is_hub_name
from w2vlab.modules.checkpoints.loading import PRETRAINED
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.sources import ORIGIN
from w2vlab.types import Seconds
from w2vlab.utils.files import EVALUATION, RUN_RECORD
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import MEBIBYTE, read_json

FIGURES = {
    "val/loss/total": ("validation loss", 1.0, ".3f"),
    "val/accuracy": ("validation accuracy", 100.0, ".1f"),
    "val/codebook/perplexity_hard": ("perplexity of the codes", 1.0, ".1f"),
    "val/wer": ("word error rate", 100.0, ".1f"),
    "val/cer": ("character error rate", 100.0, ".1f"),
    "val/per": ("phone error rate", 100.0, ".1f"),
}
"""Label, factor and format of the metrics of a validation that a card shows; those with a factor of 100 are in %."""

_MOST_OF_EVALUATIONS = 256 * MEBIBYTE
_MAX_TEXT = 300
_HIDDEN = "…"
_PERSONAL = re.compile(r"key|token|secret|passw|entity|user|host|login|mail", re.IGNORECASE)
"""Options whose values are left out of a card."""

_ABSOLUTE = re.compile(r"(?<![\w.~/-])[~/][^\s,'\"\[\]{}]*")
"""A path from the root or from the home folder, which may be within a list or a mapping."""

_URL = re.compile(r"[A-Za-z][\w+.-]*://")


@dataclass
class RunFacts:
    """Facts of a run; None or empty for what is not known.

    Attributes:
        source: The model whose weights it began with, if it did not begin with new ones: `hf:NAME`, or without folders.
        loaded: Parts of that model that it took.
        corpora: Names of the corpora that it was trained on, without folders.
        updates: Optimizer updates.
        audio_hours: Audio of all updates, in hours; every epoch counts.
        batch_seconds: Mean audio of an update, in seconds.
        seconds: Time that the training took.
        figures: Measured values by label, as text.
        evaluated_on: Corpus of `w2vlab evaluate`.
        command: Command line, without folders, names of users and keys.
        device: The device of a process, and how many there were.
        versions: Versions by package.
        pretraining: Configuration of the pretraining model, which a fine-tuning keeps; empty if the source of the
            weights did not state it.
    """

    source: str | None = None
    loaded: list[str] = field(default_factory=list)
    corpora: list[str] = field(default_factory=list)
    updates: int | None = None
    audio_hours: float | None = None
    batch_seconds: float | None = None
    seconds: Seconds | None = None
    figures: dict[str, str] = field(default_factory=dict)
    evaluated_on: str | None = None
    command: str | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)


def collect_facts(checkpoint: Mapping[str, Any], path: Path) -> RunFacts:
    """Collects what a checkpoint and the folder of its run say.

    Both may be from anybody: values of the wrong type are left out.

    Args:
        checkpoint: The loaded checkpoint.
        path: Its path. If it is in `checkpoints` of a run folder, `run.json` and the evaluation of this checkpoint are
            read.
    """
    facts = RunFacts()
    config = _mapping(checkpoint.get(CONFIG))
    data = _mapping(config.get("data"))
    source = _mapping(_mapping(config.get("model")).get("init_args")).get("init_from")
    if isinstance(source, str):
        facts.source = one_line(source, _MAX_TEXT) if is_hub_name(source) else public_name(source)
    facts.pretraining = _pretraining(checkpoint)
    facts.corpora = [public_name(path) for path in paths_of(data.get("corpus"))]
    updates = checkpoint.get("global_step")
    facts.updates = updates if isinstance(updates, int) and updates > 0 else None
    report = _mapping(_mapping(checkpoint.get("callbacks")).get("RunReport"))
    if audio := _positive(report.get("audio_seconds")):
        facts.audio_hours = audio / 3600
        facts.batch_seconds = None if facts.updates is None else audio / facts.updates
    facts.seconds = _positive(report.get("seconds"))
    facts.figures = _figures(_mapping(report.get("validation")).get("rows"))
    folder = path.absolute().parent.parent if path.absolute().parent.name == "checkpoints" else None
    if folder is not None:
        _add_record(facts, _read(folder / RUN_RECORD))
        _add_evaluation(facts, _read(folder / "evaluation" / path.stem / EVALUATION, _MOST_OF_EVALUATIONS))
    return facts


def public_name(corpus: str) -> str:
    """Returns the name of a corpus without its folders and without the name of the user."""
    if corpus in NAMES:
        return "a sample corpus of w2vlab" if corpus == SAMPLE else corpus  # which one depends on the machine
    name = Path(corpus).name
    return one_line(_HIDDEN if not name or name in _user_names() else name, _MAX_TEXT)


def public_command(words: Sequence[str]) -> str:
    """Returns a command line without folders of the machine, names of users and keys.

    Absolute paths keep their last component, and the values of options with names such as `api_key` are left out.
    """
    shown: list[str] = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        previous_is_personal = bool(shown) and shown[-1].startswith("-") and "=" not in shown[-1]
        if (equals and _PERSONAL.search(option)) or (
            not option and previous_is_personal and _PERSONAL.search(shown[-1])
        ):
            value = _HIDDEN
        shown.append(f"{option}{equals}{_without_folders(value)}")
    return one_line(" ".join(shown), 4 * _MAX_TEXT)


def _without_folders(value: str) -> str:
    if _URL.match(value):
        return _HIDDEN
    shown = _ABSOLUTE.sub(lambda found: Path(found[0]).name or _HIDDEN, value)
    for name in _user_names():
        shown = re.sub(rf"\b{re.escape(name)}\b", _HIDDEN, shown)
    return shown


def _user_names() -> set[str]:
    names = {Path.home().name}
    with suppress(OSError, KeyError):  # a container without an entry for the user
        names.add(getpass.getuser())
    return {name for name in names if len(name) > 1}


def _pretraining(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = _mapping(checkpoint.get(ORIGIN)).get("missing")
    if isinstance(missing, list) and "loss" in missing:
        return {}
    config = _mapping(checkpoint.get(PRETRAINED)) or _mapping(_mapping(checkpoint.get(CONFIG)).get("model"))
    return config if isinstance(config.get("class_path"), str) else {}


def _figures(rows: Any) -> dict[str, str]:
    if not isinstance(rows, list) or not rows or not isinstance(rows[-1], dict):
        return {}
    last = rows[-1]
    figures = {}
    for metric, (label, factor, digits) in FIGURES.items():
        value = last.get(metric)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            figures[label] = f"{factor * value:{digits}}" + (" %" if factor == 100 else "")
    return figures


def _add_record(facts: RunFacts, record: Mapping[str, Any]) -> None:
    continued = record.get("continued")
    starts = [record, *(continued if isinstance(continued, list) else [])]
    last = _mapping(starts[-1])
    parts = _mapping(record.get("warm_start")).get("parts")
    if facts.source is not None and isinstance(parts, list):
        loaded = (part.get("part") for part in map(_mapping, parts) if part.get("loaded") is True)
        facts.loaded = [one_line(part, _MAX_TEXT) for part in loaded if isinstance(part, str)]
    command = record.get("command")
    if isinstance(command, list) and command and all(isinstance(word, str) for word in command):
        facts.command = public_command([Path(command[0]).name, *command[1:]])
    device, processes = last.get("device"), last.get("processes")
    if isinstance(device, str):
        times = f"{processes} x " if isinstance(processes, int) and processes > 1 else ""
        facts.device = one_line(times + device, _MAX_TEXT)
    for package, number in _mapping(last.get("versions")).items():
        if isinstance(number, str) and re.fullmatch(r"[\w.-]+", package):
            facts.versions[package] = one_line(number, 40)


def _add_evaluation(facts: RunFacts, content: Mapping[str, Any]) -> None:
    rows = content.get("table")
    row = _row(rows if isinstance(rows, list) else [], "context")
    abx = _mapping(row.get("abx"))
    units = _mapping(_mapping(content.get("sources")).get("model")).get("units")
    joint = _row(units if isinstance(units, list) else [], "joint")
    found: dict[str, Any] = {
        "phone probe on the contexts, accuracy": row.get("accuracy"),
        "ABX error of the contexts within speakers": abx.get("within"),
        "ABX error of the contexts across speakers": abx.get("across"),
        "mutual information of phones and codes (PNMI)": joint.get("pnmi"),
    }
    figures = {label: f"{100 * value:.1f} %" for label, value in found.items() if _is_share(value)}
    corpus = _mapping(content.get("corpus")).get("name")
    if figures and isinstance(corpus, str):
        facts.evaluated_on = public_name(corpus)
    facts.figures |= figures


def _row(rows: Iterable[Any], name: str) -> Mapping[str, Any]:
    return next((row for row in rows if isinstance(row, dict) and row.get("name") == name), {})


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path, max_bytes: int = 16 * MEBIBYTE) -> Mapping[str, Any]:
    """Returns the content of a JSON file of a run; empty if it is missing or damaged."""
    try:
        return _mapping(read_json(path, max_bytes))
    except (OSError, ValueError):
        return {}
