"""Export: the files are whole or absent, the other program computes the same, and a deviation is found."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.interop.toys import LAYERS, save, save_finetuned, toy_model
from w2vlab.encoders import CodeEmbedding, ConvFeatureEncoder, LogMelEncoder
from w2vlab.interop import exporting
from w2vlab.interop.comparison.comparing import Comparison, Deviation, compare_with
from w2vlab.interop.comparison.outputs import CODES, compute_outputs
from w2vlab.interop.comparison.peers import UnavailableError
from w2vlab.interop.comparison.peers.peer import require, rows_of_units
from w2vlab.interop.comparison.peers.torchaudio import TorchaudioPeer
from w2vlab.interop.comparison.speech import Speech, find_speech, synthetic_voice
from w2vlab.interop.exporting import export
from w2vlab.interop.format_names import Format
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss
from w2vlab.modules.sources import read_source
from w2vlab.quantizers import FileTargets, IdentityQuantizer
from w2vlab.vocabulary import BLANK, Vocabulary


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(toy_model(), tmp_path_factory.mktemp("exported") / "toy.ckpt")


@pytest.fixture
def no_corpora(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_voice(path: Path, seconds: float = 1.5, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, synthetic_voice(seconds)[0].numpy(), rate)
    return path


@pytest.mark.parametrize("large", [False, True])
def test_torchaudio_computes_the_same(large: bool, tmp_path: Path, no_corpora: Path) -> None:
    source = save(toy_model(large), tmp_path / "toy.ckpt")
    done = export(source, tmp_path / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert [path.name for path in done.files] == ["theirs.pt", "theirs.json"]
    assert set(done.comparison.deviations) == {"layer 1", "layer 2", "contexts"}
    assert done.comparison.largest < 1e-5
    assert done.comparison.peer.startswith("torchaudio ")
    assert "codes" in done.comparison.remarks[-1]
    assert any("quantizer" in note for note in done.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.json", "theirs.pt", "toy.ckpt"]


@pytest.mark.parametrize("format_", ["torchaudio", "fairseq"])
def test_a_fine_tuned_model_has_its_logits_compared(format_: Format, tmp_path: Path, no_corpora: Path) -> None:
    """fairseq's dictionary, and so its head, has special symbols that ours lacks."""
    source = save_finetuned(toy_model(), tmp_path / "ctc.ckpt")
    done = export(source, tmp_path / "theirs.pt", format_, cache_dir=no_corpora)
    assert {"logits", "contexts"} <= set(done.comparison.deviations)
    assert done.comparison.largest < 1e-5


@pytest.mark.parametrize(
    ("units", "transcript"), [("characters", "a cab bed"), ("characters", "Été < мир"), ("phones", "a | b")]
)
def test_a_fine_tuned_model_for_fairseq(units: Any, transcript: str, tmp_path: Path, no_corpora: Path) -> None:
    """fairseq has four special rows more, whose probability is 0; labels say that units of one character are phones."""
    source = save_finetuned(toy_model(), tmp_path / "ctc.ckpt", units, transcript)
    done = export(source, tmp_path / "theirs.pt", "fairseq", cache_dir=no_corpora)
    assert {"logits", "log-probabilities", "contexts"} <= set(done.comparison.deviations)
    assert done.comparison.largest < 1e-5
    ours, theirs = read_source(source).vocabulary, read_source(tmp_path / "theirs.pt").vocabulary
    assert ours is not None
    assert theirs is not None
    assert theirs.units == units
    assert theirs.entries == (BLANK, "<s>", "</s>", "<unk>", *ours.entries[1:])
    # The dictionary is that of a second model, too.
    export(source, tmp_path / "second.pt", "fairseq", cache_dir=no_corpora)


def test_phones_of_one_character_stay_phones_in_a_file_of_torchaudio(tmp_path: Path, no_corpora: Path) -> None:
    source = save_finetuned(toy_model(), tmp_path / "ctc.ckpt", "phones", "a | b")
    out = tmp_path / "theirs.safetensors"
    assert export(source, out, "torchaudio", cache_dir=no_corpora).comparison.largest < 1e-5
    assert read_source(out).vocabulary == read_source(source).vocabulary
    export(out, tmp_path / "again.safetensors", "torchaudio", cache_dir=no_corpora)
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()
    arguments = json.loads((tmp_path / "theirs.json").read_text())
    assert "safetensors.torch.load_file('theirs.safetensors')" in arguments["how_to_load"]


def test_a_phone_with_the_name_of_the_blank_is_refused_for_transformers(tmp_path: Path, no_corpora: Path) -> None:
    source = save_finetuned(toy_model(), tmp_path / "ctc.ckpt", "phones", "<pad> a b")
    with pytest.raises(ValueError, match=r"^The vocabulary must not have <pad> to be written for transformers"):
        export(source, tmp_path / "folder", "huggingface", cache_dir=no_corpora)
    assert not (tmp_path / "folder").exists()


def test_what_fairseq_would_read_in_another_way_is_refused(tmp_path: Path, no_corpora: Path) -> None:
    source = save_finetuned(toy_model(), tmp_path / "ctc.ckpt", transcript="a | b")
    with pytest.raises(ValueError, match=r"^The vocabulary must not have \| to be written for fairseq"):
        export(source, tmp_path / "theirs.pt", "fairseq", cache_dir=no_corpora)
    source = save(toy_model(loss=CodePredictionLoss), tmp_path / "codes.ckpt")
    with pytest.raises(ValueError, match=r"^`model.loss` must be ContrastiveLoss for fairseq, but is CodePrediction"):
        export(source, tmp_path / "theirs.pt", "fairseq", cache_dir=no_corpora)


def test_what_transformers_trains_in_another_way_is_said(tmp_path: Path, no_corpora: Path) -> None:
    loss = partial(ContrastiveLoss, projection_dim=6, num_negatives=4, num_codebook_negatives=2)
    encoder = partial(ConvFeatureEncoder, layers=LAYERS, padding="include")
    source = save(toy_model(loss=loss, encoder=encoder), tmp_path / "toy.ckpt")
    done = export(source, tmp_path / "folder", "huggingface", cache_dir=no_corpora)
    assert "`model.loss.num_codebook_negatives` is 2; transformers trains with 0." in done.notes
    assert not any("group norm" in note for note in done.notes)
    source = save(toy_model(quantizer=IdentityQuantizer), tmp_path / "identity.ckpt")
    done = export(source, tmp_path / "plain", "huggingface", cache_dir=no_corpora)
    assert "Quantizer and loss are not written." in done.notes


def test_onnxruntime_computes_the_same(tmp_path: Path, no_corpora: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = save(toy_model(large=True), tmp_path / "toy.ckpt")
    done = export(source, tmp_path / "features.onnx", "onnx", cache_dir=no_corpora)
    assert set(done.comparison.deviations) == {"contexts"}
    assert done.comparison.largest < 1e-5
    assert "and a single frame of them" in str(done.comparison.speech)
    assert done.notes[0].endswith("it normalizes each waveform itself.")


def test_a_deviation_is_found(checkpoint: Path, tmp_path: Path, no_corpora: Path, monkeypatch) -> None:
    """The files stay, so that the reason can be found."""

    class Wrong(TorchaudioPeer):
        def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
            outputs = super().__call__(waveform)
            outputs["layer 2"] = outputs["layer 2"] + 1e-3
            return outputs

    monkeypatch.setitem(exporting._PEERS, "torchaudio", lambda written: Wrong(written.out, written.model))
    done = export(checkpoint, tmp_path / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert not done.comparison.is_equal
    found = {name: deviation.largest for name, deviation in done.comparison.deviations.items()}
    assert 2e-4 < found["layer 2"] < 1.1e-3
    assert max(found["layer 1"], found["contexts"]) < 1e-5
    assert done.files[0].is_file()


def test_without_the_other_package(checkpoint: Path, tmp_path: Path, no_corpora: Path, monkeypatch) -> None:
    monkeypatch.setattr("w2vlab.interop.comparison.peers.peer.find_spec", lambda name: None)
    done = export(checkpoint, tmp_path / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert done.comparison.peer is None
    assert done.comparison.is_equal
    assert done.comparison.remarks == ["Not compared, because torchaudio is not installed (`pip install torchaudio`)."]
    with pytest.raises(UnavailableError):
        require("torchaudio")


def test_a_model_of_codes_is_written_and_not_compared(tmp_path: Path, no_corpora: Path) -> None:
    codes = {"path": str(tmp_path / "absent"), "num_codebooks": 2, "codebook_size": 5}
    encoder = partial(CodeEmbedding, **codes, output_dim=16, stride=320, receptive_field=400)
    model = toy_model(encoder=encoder, quantizer=partial(FileTargets, **codes), loss=CodePredictionLoss, penalties={})
    done = export(save(model, tmp_path / "bert.ckpt"), tmp_path / "safe", "safetensors", cache_dir=no_corpora)
    assert done.comparison.remarks == ["Not compared, because the inputs of the model are codes of a file."]
    assert_close(dict(read_source(tmp_path / "safe").weights), model.state_dict(), rtol=0, atol=0)


def test_another_package_that_cannot_be_imported(
    checkpoint: Path, tmp_path: Path, no_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a torchaudio that does not fit the installed torch."""

    def broken(name: str) -> None:
        raise OSError(f"{name}.so: undefined symbol: torch_exception")

    monkeypatch.setattr("w2vlab.interop.comparison.peers.peer.import_module", broken)
    done = export(checkpoint, tmp_path / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    (remark,) = done.comparison.remarks
    assert remark == (
        "Not compared, because torchaudio cannot be imported (torchaudio.so: undefined symbol: torch_exception)."
    )


def test_deviations() -> None:
    """Relative to the largest value if that is above 1; another shape or a value that is not finite is infinite."""
    small, large, shapes, nan, codes = Deviation(), Deviation(), Deviation(), Deviation(), Deviation()
    small.add("x", torch.tensor([0.5, 0.1]), torch.tensor([0.5, 0.101]))
    assert small.largest == pytest.approx(1e-3, rel=1e-4)
    small.add("x", torch.tensor([0.5]), torch.tensor([0.5]))
    assert small.largest == pytest.approx(1e-3, rel=1e-4)
    assert small.num_values == 3
    large.add("x", torch.tensor([200.0, 1.0]), torch.tensor([200.0, 1.1]))
    assert large.largest == pytest.approx(5e-4, rel=1e-4)
    shapes.add("x", torch.zeros(3), torch.zeros(4))
    nan.add("x", torch.zeros(3), torch.tensor([0.0, math.nan, 0.0]))
    assert shapes.largest == nan.largest == math.inf
    codes.add(CODES, torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0]))
    codes.add(CODES, torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4]))
    assert codes.largest == 1 / 8
    codes.add(CODES, torch.zeros(1, 3), torch.zeros(1, 4))
    codes.add(CODES, torch.zeros(1, 3), torch.zeros(1, 3))
    assert codes.largest == math.inf


def test_what_is_rounding_is_no_deviation() -> None:
    """The logarithms of channels without a sound, beside a loud one, are the rounding of the loud one."""
    model = toy_model(encoder=partial(LogMelEncoder, floor=1e-12)).eval()
    tone = torch.sin(torch.arange(8_000) * 0.3)[None]

    class Exact:
        name, remarks, beside = "another 1.0", (), 0.0

        def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
            latents = compute_outputs(copy.deepcopy(model).double(), waveform.double())["latents"]
            return {"latents": latents + self.beside * latents.abs().max()}

    found = compare_with(Exact(), model, Speech("a tone", (tone,)))
    assert found.largest > 1e-4
    assert found.is_equal
    assert re.fullmatch(
        r"In float32, w2vlab's own latents deviate by .* from float64: so much is rounding.", found.remarks[0]
    )
    Exact.beside = 10 * found.largest
    found = compare_with(Exact(), model, Speech("a tone", (tone,)))
    assert not found.is_equal
    assert found.rounding["latents"] < found.largest / 3


def test_what_the_other_program_lacks_is_named(checkpoint: Path) -> None:
    model = toy_model()

    class Lacks:
        name, remarks = "another 1.0", ("It has no loss.",)

        def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
            outputs = compute_outputs(model, waveform)
            return {name: outputs[name] for name in ("contexts", "layer 2", "quantized latents")}

    found = compare_with(Lacks(), model, Speech("a voice", (synthetic_voice(1),)))
    assert found.remarks == [
        "It has no loss.",
        "Not compared, because the other model does not give them: latents, layer 0 to layer 1, codes, projected "
        "contexts, projected targets.",
    ]
    assert found.largest == 0
    assert Comparison(None).is_equal


def test_rows_of_units() -> None:
    vocabulary = Vocabulary("characters", ("<blank>", " ", "a", "b"))
    assert rows_of_units(vocabulary, ["a", "|", "<pad>", "b"]) == [2, 1, 0, 3]
    assert rows_of_units(vocabulary, ["<blank>", " ", "a", "b"]) == [0, 1, 2, 3]
    for labels in (["<pad>", "|", "a"], ["<pad>", "|", "a", "c"], ["<pad>", "|", "a", "b", "c"]):
        with pytest.raises(ValueError, match="must be the 4 units of the model"):
            rows_of_units(vocabulary, labels)


def test_an_existing_file_is_kept_unless_it_may_be_replaced(checkpoint: Path, tmp_path: Path, no_corpora: Path) -> None:
    out = tmp_path / "theirs.pt"
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"^`out` must not exist, but .*theirs\.pt does; --overwrite replaces it\.$"):
        export(checkpoint, out, "torchaudio", cache_dir=no_corpora)
    assert out.read_text() == "mine"
    out.unlink()
    (tmp_path / "theirs.json").write_text("mine")
    with pytest.raises(ValueError, match=r"theirs\.json, which belongs to theirs\.pt, must not exist"):
        export(checkpoint, out, "torchaudio", cache_dir=no_corpora)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.json"]
    export(checkpoint, out, "torchaudio", overwrite=True, cache_dir=no_corpora)
    export(checkpoint, out, "torchaudio", overwrite=True, cache_dir=no_corpora)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.json", "theirs.pt"]
    with pytest.raises(ValueError, match=r"^`out` must not be the source, but is "):
        export(out, out, "torchaudio", overwrite=True, cache_dir=no_corpora)
    with pytest.raises(ValueError, match=r"^`out` must be a folder in this format, but .* is not\.$"):
        export(checkpoint, out, "huggingface", overwrite=True, cache_dir=no_corpora)
    with pytest.raises(ValueError, match=r"^`out` must be a file in this format, but .* is not\.$"):
        export(checkpoint, tmp_path, "torchaudio", overwrite=True, cache_dir=no_corpora)


def test_a_folder_with_other_files_is_never_replaced(checkpoint: Path, tmp_path: Path, no_corpora: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"the files of an export alone to be overwritten, but .* has thesis\.tex\.$"):
        export(checkpoint, folder, "huggingface", overwrite=True, cache_dir=no_corpora)
    assert (folder / "thesis.tex").read_text() == "mine"


def test_only_the_files_of_an_export_are_removed_as_unfinished(
    checkpoint: Path, tmp_path: Path, no_corpora: Path
) -> None:
    thesis = tmp_path / "theirs.pt.unfinished" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    with pytest.raises(ValueError, match=r"theirs\.pt\.unfinished, the folder of unfinished files, must have "):
        export(checkpoint, tmp_path / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert thesis.read_text() == "mine"
    (tmp_path / "other.pt.unfinished").write_text("mine")
    with pytest.raises(ValueError, match=r"other\.pt\.unfinished, the folder of unfinished files, must have the files"):
        export(checkpoint, tmp_path / "other.pt", "torchaudio", cache_dir=no_corpora)


def test_a_folder_whose_replacement_fails_is_still_there(
    checkpoint: Path, tmp_path: Path, no_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    replace = os.replace

    def fails(path: Path, target: Path) -> None:
        if target == folder and path.name == folder.name:
            raise KeyboardInterrupt
        replace(path, target)

    monkeypatch.setattr("w2vlab.interop.staging.os.replace", fails)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, folder, "huggingface", overwrite=True, cache_dir=no_corpora)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("no")])
def test_nothing_is_left_of_an_export_that_ends_early(
    problem: BaseException, checkpoint: Path, tmp_path: Path, no_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(written: Any, out: Path) -> list[str]:
        out.write_bytes(b"half")
        raise problem

    monkeypatch.setitem(exporting._WRITERS, "torchaudio", write)
    with pytest.raises(type(problem)):
        export(checkpoint, tmp_path / "new" / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "theirs.pt.unfinished").mkdir()  # of a process that was killed
    (tmp_path / "new" / "theirs.pt.unfinished" / "theirs.pt").write_bytes(b"half")
    monkeypatch.undo()
    export(checkpoint, tmp_path / "new" / "theirs.pt", "torchaudio", cache_dir=no_corpora)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["theirs.json", "theirs.pt"]


def test_an_unknown_format(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`format` must be "):
        export(checkpoint, tmp_path / "x", "gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`out` must be a file or folder to write"):
        export(checkpoint, "/", "onnx")


def test_speech_of_given_files(tmp_path: Path) -> None:
    """Any format and rate; the first 10 s, the channels averaged."""
    files = [write_voice(tmp_path / "long.flac", 12), write_voice(tmp_path / "low.wav", 1, 8_000)]
    stereo = np.stack([np.full(16_000, 0.25), np.full(16_000, 0.75)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16_000)
    found = find_speech([*files, tmp_path / "stereo.wav"], None, tmp_path)
    assert [waveform.shape for waveform in found.waveforms] == [(1, 160_000), (1, 32_000), (1, 16_000)]
    assert torch.allclose(found.waveforms[2], torch.tensor(0.5), atol=1e-4)
    assert torch.allclose(found.waveforms[0], synthetic_voice(12)[:, :160_000], atol=1e-4)
    assert str(found) == "3 utterances of the given files (13 s)"
    (tmp_path / "text.wav").write_text("no audio")
    for name in ("nowhere.wav", "text.wav"):
        with pytest.raises(ValueError, match=rf"^`audio` must be files of speech, but .*{name} cannot be used: \w"):
            find_speech([tmp_path / name], None, tmp_path)


def test_speech_of_the_runs_own_corpus_else_of_a_sample_corpus(tmp_path: Path) -> None:
    own, cache = tmp_path / "own", tmp_path / "cache"
    for number in range(5):
        write_voice(own / "part" / f"{number}.wav", 0.5 if number == 0 else 1 + number / 2)  # the first is too short
    (own / "part" / "00.wav").write_text("no audio")
    found = find_speech([], {"data": {"corpus": str(own)}}, cache)
    assert found.source == "the run's corpus own"
    assert [waveform.shape[1] for waveform in found.waveforms] == [24_000, 32_000, 40_000]
    sample = cache / "corpora" / "mini_librispeech" / "LibriSpeech"
    write_voice(sample / "a.wav", 2)
    for config in (None, {}, {"data": None}, {"data": {"corpus": str(tmp_path / "of another machine")}}):
        found = find_speech([], config, cache)
        assert (found.source, len(found.waveforms)) == ("mini_librispeech", 1)


def test_speech_without_a_corpus_is_a_synthetic_voice(tmp_path: Path) -> None:
    found = find_speech([], {"data": {"corpus": 3}}, tmp_path)
    assert found.source == "a synthetic voice, because there is no corpus on this machine"
    (waveform,) = found.waveforms
    assert torch.equal(waveform, synthetic_voice())
    spectrum = torch.fft.rfft(waveform[0]).abs().square()
    assert spectrum[: len(spectrum) // 8].sum() > 0.5 * spectrum.sum()  # it has the tilt of speech, unlike noise
    assert waveform.abs().max() <= 0.3 + 1e-6
