"""`w2vlab export`, called in place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile

from tests.interop.toys import save, save_finetuned, toy_model
from w2vlab.cli.main import main
from w2vlab.interop import exporting
from w2vlab.interop.comparison.speech import synthetic_voice
from w2vlab.modules.sources import read_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints: BASE's layout, LARGE's, and a fine-tuned model of LARGE's."""
    root = tmp_path_factory.mktemp("checkpoints")
    save(toy_model(), root / "base.ckpt")
    save(toy_model(large=True), root / "large.ckpt")
    save_finetuned(toy_model(large=True), root / "ctc.ckpt")
    return root


@pytest.fixture(autouse=True)
def _no_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))


def deviations(printed: str) -> dict[str, float]:
    """The table of a comparison: the largest deviation of each output, of codes the share that differs."""
    rows = re.findall(r"^([a-z]+(?:[ -][a-z0-9]+)*) +[\d,]+ +([\d.e+-]+)( % differ)? *$", printed, re.MULTILINE)
    return {name: float(value) for name, value, _ in rows}


@pytest.mark.parametrize(
    ("name", "more", "architecture", "outputs"),
    [
        (
            "base",
            [],
            "Wav2Vec2ForPreTraining",
            {"codes", "quantized latents", "projected contexts", "projected targets"},
        ),
        (
            "large",
            [],
            "Wav2Vec2ForPreTraining",
            {"codes", "quantized latents", "projected contexts", "projected targets"},
        ),
        ("ctc", [], "Wav2Vec2ForCTC", {"logits"}),
        ("base", ["--plain"], "Wav2Vec2Model", set()),
    ],
)
def test_a_folder_for_transformers(
    name: str, more: list[str], architecture: str, outputs: set[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(folder / f"{name}.ckpt"), "out", "--format", "huggingface", *more]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Written: out with README.md, config.json, model.safetensors, preprocessor_config.json")
    assert (
        f"({architecture}) on 1 utterance of a synthetic voice, because there is no corpus on this machine" in printed
    )
    found = deviations(printed)
    assert set(found) == {"latents", "layer 0", "layer 1", "layer 2", "contexts", *outputs}
    assert max(found.values()) < 1e-5
    assert json.loads(Path("out/config.json").read_text())["architectures"] == [architecture]
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        names = {"waveform": synthetic_voice(1)[0]}
        exec(block.replace("FOLDER", "out"), names)
        frames = names["logits" if "logits" in block else "contexts"]
        assert frames.shape[:2] == (1, 49)
    assert not [path for path in Path().iterdir() if path.name not in ("out", "cache")]


def test_the_other_formats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX is tested in `tests/interop`, because its export takes seconds."""
    for name, format_, file, peer in (
        ("base", "torchaudio", "a.pt", "torchaudio "),
        ("ctc", "torchaudio", "b.safetensors", "torchaudio "),
        ("large", "fairseq", "c.pt", "w2vlab's own reader "),
        ("ctc", "safetensors", "d.safetensors", "w2vlab's own reader "),
    ):
        assert main(["export", str(folder / f"{name}.ckpt"), file, f"--format={format_}"]) == 0
        printed = capsys.readouterr().out
        assert f"Compared with {peer}" in printed
        found = deviations(printed)
        assert {"contexts", "layer 2"} <= set(found)
        assert ("logits" in found) == (name == "ctc")
        assert max(found.values()) < 1e-5
        again = read_source(file)
        assert again.config["init_args"]["context"]["init_args"]["num_heads"] == 4
        assert (again.vocabulary is not None) == (name == "ctc")


def test_given_speech(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one.wav", "two.flac"):
        soundfile.write(name, synthetic_voice(1)[0].numpy(), 16_000)
    words = ["export", str(folder / "base.ckpt"), "a.pt", "--format=torchaudio"]
    assert main([*words, "--audio=one.wav,two.flac"]) == 0
    assert " on 2 utterances of the given files (2 s, and a single frame of them):\n" in capsys.readouterr().out
    assert main([*words, "--overwrite", "--audio", "three.wav"]) == 1
    assert capsys.readouterr().err.startswith("error: `audio` must be files of speech, but three.wav cannot be used: ")


def test_a_deviation_is_an_error_that_leaves_the_files(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = exporting._PEERS["torchaudio"]

    def wrong(written: exporting.Written):
        peer = build(written)
        peer._model.encoder.transformer.layers[1].attention.q_proj.bias.data += 1
        return peer

    monkeypatch.setitem(exporting._PEERS, "torchaudio", wrong)
    assert main(["export", str(folder / "base.ckpt"), "a.pt", "--format=torchaudio"]) == 1
    captured = capsys.readouterr()
    assert re.fullmatch(
        r"error: The model of a\.pt deviates by [\d.e-]+, more than 1e-4\. The files are kept, so that the reason "
        r"can be found; do not use them\.\n",
        captured.err,
    )
    assert deviations(captured.out)["contexts"] > 1e-4
    assert Path("a.pt").is_file()


def test_errors_are_a_line(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(folder / "base.ckpt")
    Path("there").write_text("mine")
    for words, message in (
        (["nowhere.ckpt", "a.pt", "--format=onnx"], "`source` must be an existing checkpoint file"),
        ([base, "there", "--format=onnx"], "`out` must not exist, but there does; --overwrite replaces it."),
        ([base, "a", "--format=onnx", "--plain"], "`plain` must be false for onnx, which has no other model"),
        ([base, "a.pt", "--format=onnx", "--options.num_heads=3"], "Options of a source must not be given for "),
    ):
        assert main(["export", *words]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {message}"), captured.err
        assert captured.err.count("\n") == 2  # with the line on tracebacks

    def full(written: exporting.Written, out: Path) -> list[str]:
        out.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setitem(exporting._WRITERS, "torchaudio", full)
    assert main(["export", base, "a.pt", "--format=torchaudio"]) == 1
    assert capsys.readouterr().err.startswith("error: [Errno 28] No space left on device: ")
    assert sorted(path.name for path in Path().iterdir()) == ["there"]


def test_an_interrupt_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    words = ["export", str(folder / "base.ckpt"), "a.pt", "--format=torchaudio"]
    with monkeypatch.context() as patch:
        patch.setitem(exporting._PEERS, "torchaudio", interrupted)
        assert main(words) == 130
        message = "\nSIGINT: ended early; the files are complete, but were not compared.\n"
        assert capsys.readouterr().err == message
        assert sorted(path.name for path in Path().iterdir()) == ["a.json", "a.pt"]
    monkeypatch.setitem(exporting._WRITERS, "torchaudio", interrupted)
    assert main([*words, "--overwrite"]) == 130
    assert capsys.readouterr().err == "\nSIGINT: ended early; nothing was written.\n"
    assert sorted(path.name for path in Path().iterdir()) == ["a.json", "a.pt"]  # the older ones


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["a", "b"], "`format` must be given."),
        (["a", "b", "c", "--format=onnx"], "`w2vlab export` takes one SOURCE and one OUT, but was given a b c."),
        (["a", "--format=onnx"], "`out` must be given."),
        (["a", "b", "--format=gguf"], "`format` must be one of 'huggingface', 'fairseq', "),
        (["a", "b", "--format.x=onnx"], "Unknown argument --format.x. Did you mean format?"),
        (["a", "b", "--format=onnx", "--option.num_heads=3"], "Unknown argument --option.num_heads. "),
    ):
        assert main(["export", *words]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
