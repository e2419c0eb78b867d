"""The upstream for s3prl: its interface, and the values of the layers."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchaudio
from torch import Tensor, nn

from tests.interop.toys import save, save_finetuned, toy_model
from w2vlab.contexts import ConvContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.formats.torchaudio import write_torchaudio
from w2vlab.interop import s3prl
from w2vlab.interop.comparison.outputs import CONTEXTS, compute_outputs
from w2vlab.interop.s3prl import UpstreamExpert
from w2vlab.modules import FuturePrediction
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(toy_model(), tmp_path_factory.mktemp("s3prl") / "toy.ckpt")


def waves(*lengths: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(length) / 10 for length in lengths]


class Featurizer(nn.Module):
    """The contract of s3prl 0.4.18's `Featurizer`: what it asks an upstream, and what it asserts.

    It weights hidden states of one shape and cuts them to `round(samples / rate)` frames; the padded length may
    differ from that by fewer than 5 frames.
    """

    def __init__(self, upstream: nn.Module) -> None:
        super().__init__()
        features = upstream.eval()(waves(16_000))["hidden_states"]
        assert isinstance(features, list | tuple)
        self.weights = nn.Parameter(torch.zeros(len(features)))
        self.output_dim = torch.stack(features).shape[-1]
        self.downsample_rate = upstream.get_downsample_rates("hidden_states")

    def forward(self, wavs: list[Tensor], features: dict[str, list[Tensor]]) -> list[Tensor]:
        stacked = torch.stack(features["hidden_states"])  # (L, B, T, D)
        mixed = (self.weights.softmax(dim=0)[:, None, None, None] * stacked).sum(dim=0)
        lengths = [round(len(wav) / self.downsample_rate) for wav in wavs]
        assert abs(mixed.shape[1] - max(lengths)) < 5
        return [frames[:length] for frames, length in zip(mixed, lengths, strict=True)]


@pytest.mark.parametrize("large", [False, True])
def test_hidden_states_are_the_inputs_of_the_layers_and_the_contexts(large: bool, tmp_path: Path) -> None:
    model = toy_model(large)
    upstream = UpstreamExpert(str(save(model, tmp_path / "toy.ckpt"))).eval()
    (wav,) = waves(9_000)
    with torch.no_grad():
        found = upstream([wav])
    expected = compute_outputs(model, wav[None])
    names = ["layer 0", "layer 1", "layer 2", CONTEXTS]
    assert len(found["hidden_states"]) == 4
    for name, frames in zip(names, found["hidden_states"], strict=True):
        torch.testing.assert_close(frames, expected[name])
    torch.testing.assert_close(found["last_hidden_state"], expected[CONTEXTS])


def test_a_batch_has_the_values_of_its_utterances(checkpoint: Path) -> None:
    upstream = UpstreamExpert(checkpoint).eval()
    wavs = waves(9_000, 20_000, 400)
    with torch.no_grad():
        together = upstream(wavs)["hidden_states"]
        for row, wav in enumerate(wavs):
            for batch, alone in zip(together, upstream([wav])["hidden_states"], strict=True):
                torch.testing.assert_close(batch[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_it_fits_the_featurizer(checkpoint: Path) -> None:
    upstream = UpstreamExpert(checkpoint)
    featurizer = Featurizer(upstream)
    assert (featurizer.output_dim, featurizer.downsample_rate) == (24, 320)
    wavs = waves(16_000, 123, 8_000)  # one is shorter than a frame
    features = featurizer(wavs, upstream(wavs))
    assert [len(frames) for frames in features] == [49, 0, 25]
    assert upstream(waves(123))["hidden_states"][0].shape == (1, 1, 24)


def test_s3prl_itself(checkpoint: Path) -> None:
    """Where it is installed; it is not among the packages of the tests."""
    interfaces = pytest.importorskip("s3prl.upstream.interfaces")
    upstream = UpstreamExpert(checkpoint)
    featurizer = interfaces.Featurizer(upstream, upstream_device="cpu")
    wavs = waves(16_000, 8_000)
    assert [frames.shape for frames in featurizer(wavs, upstream(wavs))] == [(49, 24), (25, 24)]


def test_it_can_be_trained_with_all_layers(checkpoint: Path) -> None:
    """s3prl weights a fixed number of layers, so none may be skipped, at a rate of 0.4 here."""
    upstream = UpstreamExpert(checkpoint).train()
    for _ in range(5):
        assert len(upstream(waves(6_000))["hidden_states"]) == 4
    upstream(waves(6_000))["last_hidden_state"].square().sum().backward()
    gradients = [parameter.grad for parameter in upstream.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_other_models(tmp_path: Path) -> None:
    model = toy_model()
    finetuned = UpstreamExpert(save_finetuned(model, tmp_path / "ctc.ckpt")).eval()
    pretrained = UpstreamExpert(save(model, tmp_path / "toy.ckpt")).eval()
    with torch.no_grad():
        for ours, theirs in zip(
            *(found(waves(5_000))["hidden_states"] for found in (finetuned, pretrained)), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_layers_of_another_width_are_left_out(tmp_path: Path) -> None:
    """The convolutions of wav2vec's context network need not all have the width of the contexts."""
    torch.manual_seed(0)
    model = FuturePrediction(
        encoder=partial(ConvFeatureEncoder, layers=[(8, 10, 5), (8, 8, 4)]),
        context=partial(ConvContext, layers=[(6, 2), (12, 3), (12, 2)]),
    )
    upstream = UpstreamExpert(save(model, tmp_path / "wav2vec.ckpt")).eval()
    with torch.no_grad():
        found = upstream(waves(2_000, 1_000))["hidden_states"]
    assert [frames.shape[-1] for frames in found] == [12, 12]
    assert upstream.get_downsample_rates("hidden_states") == 20


def test_a_padded_batch_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"^`wavs` must be a list .* but is a tensor of shape \(2, 400\)\.$"):
        UpstreamExpert(checkpoint)(torch.zeros(2, 400))


def test_without_s3prl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends with a line that says how to install it."""
    monkeypatch.setitem(sys.modules, "s3prl", None)
    with pytest.raises(ModuleNotFoundError, match=r"^s3prl must be installed"):
        s3prl.register()
    with pytest.raises(SystemExit, match=r"^error: s3prl must be installed .* --no-deps ./s3prl"):
        s3prl.main()


@pytest.mark.parametrize("wavs", [[], [torch.zeros(1, 400)]])
def test_a_list_of_waveforms_is_required(wavs: list[Tensor], checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"^`wavs` must be a list of waveforms of shape \(S,\), but has the shapes"):
        UpstreamExpert(checkpoint)(wavs)


def test_bad_sources_and_options(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"^`ckpt` must be "):
        UpstreamExpert(tmp_path / "nowhere.ckpt")
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, why in (("nowhere.yaml", "cannot be read"), ("list.yaml", "has none")):
        with pytest.raises(ValueError, match=rf"^`model_config` must be a YAML file of options, but .*{name} {why}"):
            UpstreamExpert(checkpoint, model_config=tmp_path / name)


def test_options_of_s3prl_have_no_effect(checkpoint: Path) -> None:
    assert isinstance(s3prl.w2vlab(ckpt=str(checkpoint), model_config=None, refresh=True), UpstreamExpert)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package s3prl whose hub can be written; nothing of it is left after the test."""
    (tmp_path / "s3prl").mkdir()
    (tmp_path / "s3prl" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3prl"]:
        monkeypatch.delitem(sys.modules, name)
    huggingface_hub = importlib.import_module("huggingface_hub")
    for module, name in (
        (torchaudio, "set_audio_backend"),
        (huggingface_hub, "HfFolder"),
        (huggingface_hub, "Repository"),
    ):
        if not hasattr(module, name):
            monkeypatch.setattr(module, name, None, raising=False)
            delattr(module, name)
    yield tmp_path / "s3prl" / "hub.py"
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3prl"]:
        del sys.modules[name]


def test_a_hub_that_works_gets_the_upstream(hub: Path) -> None:
    hub.write_text("import torchaudio\ntorchaudio.set_audio_backend('sox_io')\ndef hubert(): pass\n")
    found = s3prl.register()
    assert found.w2vlab is s3prl.w2vlab
    assert hasattr(found, "hubert")


def test_a_hub_that_fails_is_replaced(hub: Path) -> None:
    hub.write_text("import torchaudio.sox_effects_of_an_older_version\n")
    s3prl.register()
    from s3prl import hub as found

    assert isinstance(found, ModuleType)
    assert found.options() == ["w2vlab"]
    assert found.options(only_registered_ckpt=True) == []
    assert found.w2vlab is s3prl.w2vlab


@pytest.mark.parametrize("large", [False, True])
def test_hidden_states_are_those_of_transformers(large: bool, tmp_path: Path) -> None:
    """The model is theirs, with their random weights. The last state is after the norm that follows pre-norm layers."""
    transformers = pytest.importorskip("transformers")
    options = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if large else {}
    torch.manual_seed(0)
    theirs = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            conv_dim=[16] * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
            **options,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    upstream = UpstreamExpert(tmp_path).eval()
    (wav,) = waves(9_000)
    with torch.no_grad():
        own, expected = upstream([wav]), theirs(wav[None], output_hidden_states=True)
    for ours, hidden in zip(own["hidden_states"][:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own["last_hidden_state"], expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert own["hidden_states"][-1] is own["last_hidden_state"]


def test_a_source_that_does_not_state_everything(tmp_path: Path) -> None:
    """A state dictionary of torchaudio without its arguments beside it: `-g` names a file with the heads."""
    model = toy_model(large=True)
    path = save(model, tmp_path / "toy.ckpt")
    write_torchaudio(read_source(path), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").unlink()
    with pytest.raises(ValueError, match="num_heads"):
        UpstreamExpert(tmp_path / "theirs.pt")
    options = tmp_path / "options.yaml"
    options.write_text("num_heads: 4\npre_norm: true\nstrides: [5, 2, 2, 2, 2, 2, 2]\nnormalize_waveform: true\n")
    upstream = UpstreamExpert(tmp_path / "theirs.pt", model_config=options).eval()
    own = build_model_of(read_source(path), path)
    (wav,) = waves(6_000)
    with torch.no_grad():
        expected = compute_outputs(own, wav[None])[CONTEXTS]
        torch.testing.assert_close(upstream([wav])["last_hidden_state"], expected)
