"""Writes a model in the format of another project, and compares what that project computes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from w2vlab.formats import PublishedModel
from w2vlab.formats.detection import is_of_lightning
from w2vlab.functional.choices import check_choice
from w2vlab.interfaces import UtteranceEncoder
from w2vlab.interop.comparison.comparing import Comparison, compare_with
from w2vlab.interop.comparison.outputs import Network
from w2vlab.interop.comparison.peers import Peer, UnavailableError
from w2vlab.interop.comparison.speech import find_speech, loudest
from w2vlab.interop.format_names import Format
from w2vlab.interop.model_card import model_card
from w2vlab.interop.run_facts import RunFacts, collect_facts
from w2vlab.interop.staging import check_target, staged
from w2vlab.modules.checkpoints.loading import read_checkpoint
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.modules.update import TrainedModule
from w2vlab.utils.files import cache_root


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
class Written:
    """A model that was written, and what a writer or a peer needs to know of it.

    Attributes:
        out: The file or folder.
        format: Its format.
        model: The model as plain data.
        module: The model.
        plain: Whether to write the network alone.
        run_config: Configuration of the run that trained it; None if it is not known.
        facts: What else is known of that run.
        files: What was written, the given one first.
        notes: What the format does not have, or states otherwise, one sentence each.
    """

    out: Path
    format: Format
    model: PublishedModel
    module: TrainedModule
    plain: bool
    run_config: Mapping[str, Any] | None
    facts: RunFacts
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(
    source: str | Path,
    out: str | Path,
    format: Format,
    *,
    options: Mapping[str, Any] | None = None,
    audio: Sequence[str | Path] = (),
    plain: bool = False,
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
        plain: Of the format huggingface: write the network alone, without quantizer, loss and linear layer.
        overwrite: Whether `out` may exist; of a folder, only if it has nothing but the files of an export.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.

    Raises:
        ValueError: The source cannot be read, the format cannot express an option of the model, or `out` exists.
        OSError: A file cannot be written.
    """
    written = write(source, out, format, options=options, plain=plain, overwrite=overwrite)
    return Export(written.files, written.notes, compare(written, audio=audio, cache_dir=cache_dir))


def write(
    source: str | Path,
    out: str | Path,
    format: Format,
    *,
    options: Mapping[str, Any] | None = None,
    plain: bool = False,
    overwrite: bool = False,
) -> Written:
    """Writes a model in another format; the arguments and errors are those of `export`."""
    check_choice("format", format, Format)
    if plain and format != "huggingface":
        raise ValueError(f"`plain` must be false for {format}, which has no other model, but is true.")
    out = Path(out)
    check_target(out, source, overwrite, is_folder=format == "huggingface")
    model = read_source(source, options)
    checkpoint = _own_checkpoint(source)
    module = build_model_of(model, source, options)
    facts = collect_facts(checkpoint, Path(source))
    written = Written(out, format, model, module, plain, checkpoint.get(CONFIG), facts)
    with staged(out, overwrite) as (unfinished, files):
        written.notes = _WRITERS[format](written, unfinished)
    written.files = files
    return written


def compare(written: Written, *, audio: Sequence[str | Path] = (), cache_dir: Path | None = None) -> Comparison:
    """Compares a model that was written with what the other program computes from the files.

    Args:
        written: What `write` returned.
        audio: Files of speech; by default those of `find_speech`.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.

    Raises:
        ValueError: A file of speech cannot be read, or the other program cannot load what was written.
    """
    encoder = Network.of(written.module).frontend.encoder
    if isinstance(encoder, UtteranceEncoder):
        return Comparison(None, remarks=["Not compared, because the inputs of the model are codes of a file."])
    speech = find_speech(audio, written.run_config, cache_root(cache_dir))
    try:
        peer = _PEERS[written.format](written)
    except UnavailableError as problem:
        return Comparison(None, remarks=[f"Not compared, because {problem}."])
    shortest = loudest(speech.waveforms[0], encoder.receptive_field)
    return compare_with(peer, written.module, replace(speech, shortest=shortest))


def _own_checkpoint(source: str | Path) -> Mapping[str, Any]:
    """Returns the content of a checkpoint of ours; empty if the source is another file or a folder."""
    path = Path(source)
    return read_checkpoint(path, check=False) if is_of_lightning(path) else {}


def _write_huggingface(written: Written, out: Path) -> list[str]:
    from w2vlab.formats.transformers import write_transformers

    card = model_card(written.model, written.facts, written.plain)
    return write_transformers(written.model, out, card, written.plain)


def _write_fairseq(written: Written, out: Path) -> list[str]:
    from w2vlab.formats.fairseq import write_fairseq

    return write_fairseq(written.model, out)


def _write_torchaudio(written: Written, out: Path) -> list[str]:
    from w2vlab.formats.torchaudio import write_torchaudio

    return write_torchaudio(written.model, out)


def _write_safetensors(written: Written, out: Path) -> list[str]:
    from w2vlab.formats.files.ours import write_ours_safetensors

    return write_ours_safetensors(written.model, out)


def _write_onnx(written: Written, out: Path) -> list[str]:
    from w2vlab.formats.transformers.expressing import normalizes_waveform
    from w2vlab.interop.onnx import export_onnx

    export_onnx(written.module, out)
    outputs = "`features` (B, T, D)" + (" and `log_probabilities` (B, T, V)" if written.model.vocabulary else "")
    norm = "; it normalizes each waveform itself" if normalizes_waveform(written.model.config) else ""
    return [
        f"The graph maps `waveform` (B, S), at 16 kHz, in [-1, 1] and without padding, to {outputs}, and has nothing "
        f"else{norm}."
    ]


def _transformers(written: Written) -> Peer:
    from w2vlab.interop.comparison.peers.transformers import TransformersPeer

    return TransformersPeer(written.out, written.model)


def _torchaudio(written: Written) -> Peer:
    from w2vlab.interop.comparison.peers.torchaudio import TorchaudioPeer

    return TorchaudioPeer(written.out, written.model)


def _own_reader(written: Written) -> Peer:
    from w2vlab.interop.comparison.peers.reading import OwnReader

    return OwnReader(written.out, written.model)


def _fairseq(written: Written) -> Peer:
    from w2vlab.interop.comparison.peers.reading import OwnReader

    return OwnReader(written.out, written.model, instead_of="fairseq, which this version of Python cannot install")


def _onnxruntime(written: Written) -> Peer:
    from w2vlab.interop.comparison.peers.onnx import OnnxPeer

    return OnnxPeer(written.out)


_WRITERS: dict[Format, Callable[[Written, Path], list[str]]] = {
    "huggingface": _write_huggingface,
    "fairseq": _write_fairseq,
    "torchaudio": _write_torchaudio,
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}

_PEERS: dict[Format, Callable[[Written], Peer]] = {
    "huggingface": _transformers,
    "fairseq": _fairseq,
    "torchaudio": _torchaudio,
    "safetensors": _own_reader,
    "onnx": _onnxruntime,
}
