"""Writes a model in the format of another project, and compares what that project computes with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2vlab.formats import PublishedModel
from w2vlab.functional.choices import check_choice
from w2vlab.interop.comparing import Comparison, compare_with
from w2vlab.interop.model_card import model_card
from w2vlab.interop.peers import Peer, UnavailableError
from w2vlab.interop.run_facts import RunFacts, collect_facts
from w2vlab.interop.speech import find_speech
from w2vlab.modules.checkpoints.loading import read_checkpoint
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.modules.update import TrainedModule
from w2vlab.utils.files import UNFINISHED, cache_root

Format = Literal["huggingface", "fairseq", "torchaudio", "safetensors", "onnx"]

CARD = "README.md"
"""The model card of a folder."""

_OF_A_FOLDER = (
    *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"),
)
"""Files of an exported folder, which may be overwritten together."""


@dataclass
class Export:
    """What an export has written.

    Attributes:
        files: The files, the given one first.
        notes: What the format does not have, or states otherwise, one sentence each.
        comparison: What the other program computes from these files.
    """

    files: list[Path]
    notes: list[str]
    comparison: Comparison


@dataclass
class _Task:
    """What a writer or a peer needs."""

    model: PublishedModel
    module: TrainedModule
    source: Path | str
    facts: RunFacts
    options: Mapping[str, Any] | None


def export(
    source: str | Path,
    out: str | Path,
    format: Format,
    *,
    options: Mapping[str, Any] | None = None,
    audio: Sequence[str | Path] = (),
    overwrite: bool = False,
    cache_dir: Path | None = None,
) -> Export:
    """Writes a model in another format, loads it with the program of that format, and compares the outputs.

    The files are complete or not there. A comparison that fails leaves them: `Export.comparison.is_equal` is false.

    Args:
        source: A checkpoint, or a file or folder of another project, as in `w2vlab.load`.
        out: The file to write; for `huggingface` the folder.
        format: The format.
        options: What the source does not state, such as `num_heads` of a torchaudio state dictionary.
        audio: Files of speech to compare on; by default those of `find_speech`.
        overwrite: Whether `out` may exist; of a folder, only if it has nothing but the files of an export.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.

    Raises:
        ValueError: The source cannot be read, the format cannot express an option of the model, or `out` exists.
        OSError: A file cannot be written.
    """
    check_choice("format", format, Format)
    out = Path(out)
    _check_target(out, format, overwrite)
    model = read_source(source, options)
    checkpoint = read_checkpoint(source, check=False) if model.origin.format == "w2vlab" else {}
    task = _Task(
        model, build_model_of(model, source, options), source, collect_facts(checkpoint, Path(source)), options
    )
    with _staged(out, overwrite) as (unfinished, files):
        notes = _WRITERS[format](task, unfinished)
    found = find_speech(audio, checkpoint.get("w2vlab_config"), cache_root(cache_dir))
    try:
        peer = _PEERS[format](task, out)
    except UnavailableError as problem:
        return Export(files, notes, Comparison(None, remarks=[f"Not compared, because {problem}."]))
    return Export(files, notes, compare_with(peer, task.module, found))


def _check_target(out: Path, format: Format, overwrite: bool) -> None:
    if not out.name:
        raise ValueError(f"`out` must be a file or folder to write, but is {out}.")
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"`out` must not exist, but {out} does; --overwrite replaces it.")
    if out.is_dir() != (format == "huggingface"):
        kind = "folder" if format == "huggingface" else "file"
        raise ValueError(f"`out` must be a {kind} for {format}, but {out} is not.")
    others = [path.name for path in out.iterdir() if path.name not in _OF_A_FOLDER] if out.is_dir() else []
    if others:
        raise ValueError(
            f"`out` must be a folder with the files of an export alone to be overwritten, but {out} has {others[0]}."
        )


@contextmanager
def _staged(out: Path, overwrite: bool) -> Iterator[tuple[Path, list[Path]]]:
    """Yields a path of the same name in a temporary folder, and moves what was written there beside `out` at the end.

    Some formats write more than one file. If it fails or is interrupted, nothing is left.
    """
    staging = out.with_name(out.name + UNFINISHED)
    if staging.is_dir():
        shutil.rmtree(staging)  # of a process that was killed
    staging.mkdir(parents=True)
    files: list[Path] = []
    try:
        yield staging / out.name, files
        written = sorted(staging.iterdir(), key=lambda path: path.name == out.name)  # `out` last: it names the others
        targets = [out.with_name(path.name) for path in written]
        for target in targets:
            if target.exists() and not overwrite:
                raise ValueError(f"{target}, which belongs to {out.name}, must not exist; --overwrite replaces it.")
        for path, target in zip(written, targets, strict=True):
            if path.is_dir() and target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        files += sorted(out.iterdir()) if out.is_dir() else reversed(targets)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_huggingface(task: _Task, out: Path) -> list[str]:
    from w2vlab.formats.transformers import write_transformers

    notes = list(write_transformers(task.model, out) or ())
    (out / CARD).write_text(model_card(task.model, task.facts, notes), encoding="utf-8")
    return notes


def _write_fairseq(task: _Task, out: Path) -> list[str]:
    from w2vlab.formats.fairseq import write_fairseq

    return list(write_fairseq(task.model, out) or ())


def _write_torchaudio(task: _Task, out: Path) -> list[str]:
    from w2vlab.formats.torchaudio import write_torchaudio

    return list(write_torchaudio(task.model, out) or ())


def _write_safetensors(task: _Task, out: Path) -> list[str]:
    from w2vlab.formats.files.ours import write_ours_safetensors

    return list(write_ours_safetensors(task.model, out) or ())


def _write_onnx(task: _Task, out: Path) -> list[str]:
    from w2vlab.interop.onnx import export_onnx

    return list(export_onnx(task.module, out) or ())


def _transformers(task: _Task, out: Path) -> Peer:
    from w2vlab.interop.peers.transformers import TransformersPeer

    return TransformersPeer(out, task.model.vocabulary)


def _torchaudio(task: _Task, out: Path) -> Peer:
    from w2vlab.interop.peers.torchaudio import TorchaudioPeer

    return TorchaudioPeer(out, task.model.vocabulary)


def _own_reader(task: _Task, out: Path) -> Peer:
    from w2vlab.interop.peers.reading import OwnReader

    return OwnReader(out, task.model, task.options)


def _fairseq(task: _Task, out: Path) -> Peer:
    peer = _own_reader(task, out)
    peer.remarks = ("fairseq cannot be installed with this Python: compared with what our reader loads.", *peer.remarks)
    return peer


def _onnxruntime(task: _Task, out: Path) -> Peer:
    from w2vlab.interop.peers.onnx import OnnxPeer

    return OnnxPeer(out)


_WRITERS: dict[Format, Callable[[_Task, Path], list[str]]] = {
    "huggingface": _write_huggingface,
    "fairseq": _write_fairseq,
    "torchaudio": _write_torchaudio,
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}

_PEERS: dict[Format, Callable[[_Task, Path], Peer]] = {
    "huggingface": _transformers,
    "fairseq": _fairseq,
    "torchaudio": _torchaudio,
    "safetensors": _own_reader,
    "onnx": _onnxruntime,
}
