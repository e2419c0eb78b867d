"""Folders that we write, opened by transformers; and what transformers cannot express."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.formats.transformers.peers import (
    CHARACTERS,
    LARGE,
    LAYOUTS,
    batch,
    built,
    filled,
    head_of,
    hidden_states,
    opened,
    peer,
    saved,
)
from tests.formats.transformers.test_ctc import BLANK_LAST, OPTIONS, plain
from w2vlab.decoders import GreedyDecoder
from w2vlab.formats import Origin, PublishedModel
from w2vlab.formats.transformers import read_transformers, tokenizer, write_transformers
from w2vlab.modules.checkpoints import build_model
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.vocabulary import BLANK, Vocabulary

transformers = pytest.importorskip("transformers")

WAVEFORM = torch.randn(1, 700, generator=torch.Generator().manual_seed(0))

SMALL_OURS: dict[str, Any] = {
    "encoder": {
        "class_path": "w2vlab.encoders.ConvFeatureEncoder",
        "init_args": {"layers": [[16, 10, 5], [20, 3, 2]]},
    },
    "context": {
        "class_path": "w2vlab.contexts.TransformerContext",
        "init_args": {
            "model_dim": 24,
            "num_layers": 2,
            "num_heads": 4,
            "feedforward_dim": 40,
            "position_kernel": 8,
            "position_groups": 4,
        },
    },
    "quantizer": {
        "class_path": "w2vlab.quantizers.GumbelQuantizer",
        "init_args": {"codebook_size": 6, "output_dim": 8},
    },
    "loss": {"class_path": "w2vlab.losses.ContrastiveLoss", "init_args": {"projection_dim": 10}},
}


def ours(vocabulary: Vocabulary | None = None, **options: Any) -> PublishedModel:
    """Returns a model of ours with random weights; `options` change arguments, as `encoder__bias=True`."""
    arguments = deepcopy(SMALL_OURS)
    for name, value in options.items():
        part, _, option = name.partition("__")
        if option:
            arguments[part]["init_args"][option] = value
        else:
            arguments[part] = value
    config = {"class_path": "w2vlab.modules.MaskedPrediction", "init_args": arguments}
    model = filled(PublishedModel(config=config, weights={}, origin=Origin(format="w2vlab")))
    torch.manual_seed(0)
    weights = dict(build_model(model.config, PretrainingModule, "test").state_dict())
    if vocabulary is not None:
        weights |= {"head.weight": torch.randn(len(vocabulary), 24), "head.bias": torch.randn(len(vocabulary))}
    return replace(model, weights=weights, vocabulary=vocabulary)


def from_pretrained(folder: Path) -> Any:
    """Opens a folder with the class that its configuration names, and checks that nothing is missing or left over."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


OPTIONS_OF_OURS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "encoder__normalization": "layer",
        "encoder__bias": True,
        "encoder__normalize_waveform": True,
        "context__pre_norm": True,
    },
    "equal widths": {"context__model_dim": 20},
    "equal widths with a projection": {"context__model_dim": 20, "context__always_project": True},
    "one codebook": {"quantizer__num_codebooks": 1},
    "odd positional convolution": {"context__position_kernel": 5},
}


@pytest.mark.parametrize("layout", OPTIONS_OF_OURS)
def test_our_pretraining_models_are_opened_by_transformers(tmp_path: Path, layout: str) -> None:
    model = ours(**OPTIONS_OF_OURS[layout])
    notes = write_transformers(model, tmp_path / "out", card="# A model")
    theirs = from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "Wav2Vec2ForPreTraining"
    module = built(model)
    waveform = WAVEFORM
    if layout == "large":
        extract = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "out")
        waveform = extract(WAVEFORM[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        assert (extract.do_normalize, extract.return_attention_mask) == (True, True)
        assert "do_normalize is true, return_attention_mask true" in notes[0]
        assert any("1e-07 to the variance" in note for note in notes)
    with torch.no_grad():
        expected = theirs.wav2vec2(waveform)
        quantized, _ = theirs.quantizer(expected.extract_features)
        found = module.quantize(batch(WAVEFORM))
    assert torch.allclose(hidden_states(module, WAVEFORM)[-1], expected.last_hidden_state, atol=2e-5)
    assert torch.allclose(found.quantized, quantized, atol=1e-5)
    assert (tmp_path / "out" / "README.md").read_text() == "# A model"
    # And back.
    back = filled(read_transformers(tmp_path / "out"))
    assert set(back.weights) == set(model.weights), "an identity as projection is left out again"
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in model.weights.items())


def test_the_written_preprocessor_normalizes_without_the_padding(tmp_path: Path) -> None:
    """With its defaults it normalizes over the padding, and a row of half the length comes out 1.41 times as loud."""
    model = ours(**OPTIONS_OF_OURS["large"])
    write_transformers(model, tmp_path)
    extract = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    rows = [row.numpy() for row in (torch.randn(1000), torch.randn(500))]
    options = {"sampling_rate": 16_000, "padding": True, "return_tensors": "pt"}
    inputs = extract(rows, **options)
    by_default = transformers.Wav2Vec2FeatureExtractor()(rows, **options).input_values[1, :500]
    assert by_default.std() / inputs.input_values[1, :500].std() == pytest.approx(2**0.5, rel=1e-2)
    with torch.no_grad():
        expected = from_pretrained(tmp_path).wav2vec2(**inputs).last_hidden_state
    waveform = torch.zeros(2, 1000)
    for row, samples in enumerate(rows):
        waveform[row, : len(samples)] = torch.from_numpy(samples)
    module = built(model)
    found = hidden_states(module, waveform, (1000, 500))[-1]
    frames = module.encoder.num_frames(500)
    assert torch.allclose(found[0], expected[0], atol=2e-5)
    assert torch.allclose(found[1, :frames], expected[1, :frames], atol=2e-5)


def test_plain_models_of_ours(tmp_path: Path) -> None:
    identity = {"class_path": "w2vlab.quantizers.IdentityQuantizer", "init_args": {}}
    continuous = ours(quantizer=identity)
    kmeans = {"class_path": "w2vlab.quantizers.KMeansQuantizer", "init_args": {"codebook_size": 4}}
    other = ours(quantizer=kmeans)
    with pytest.raises(ValueError, match=r"`model.quantizer` must be GumbelQuantizer or IdentityQuantizer"):
        write_transformers(other, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    for number, (model, plain_only) in enumerate([(continuous, False), (other, True), (ours(), True)]):
        notes = write_transformers(model, tmp_path / str(number), plain=plain_only)
        theirs = from_pretrained(tmp_path / str(number))
        assert type(theirs).__name__ == "Wav2Vec2Model"
        assert "Quantizer and loss are not written." in notes
        with torch.no_grad():
            expected = theirs(WAVEFORM).last_hidden_state
        assert torch.allclose(hidden_states(built(model), WAVEFORM)[-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary.of("characters", ["да нет", "не та"]),
        Vocabulary.of("characters", ["ab"]),
        Vocabulary.of("characters", ["A < B > c"]),
        Vocabulary("characters", (BLANK, "b", "<unk>", " ", "<s>", "a", "</s>")),
        Vocabulary.of("phones", ["aa b sil", "ch aa"]),
    ],
)
def test_our_fine_tuned_models_are_opened_by_transformers(tmp_path: Path, vocabulary: Vocabulary) -> None:
    model = ours(vocabulary, **OPTIONS_OF_OURS["large"])
    write_transformers(model, tmp_path)
    theirs = from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Wav2Vec2ForCTC"
    assert theirs.config.pad_token_id == 0
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
    assert len(processor.tokenizer) == len(vocabulary)  # no token is added, such as one between words
    waveform = 3 * torch.randn(2, 900)
    inputs = processor(list(waveform.numpy()), sampling_rate=16_000, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = theirs(inputs.input_values, attention_mask=inputs.attention_mask).logits
    module = built(model)
    found = head_of(model)(module.context(module.context.project(module.encode(batch(waveform)).latents)))
    assert torch.allclose(found, logits, atol=5e-5)
    texts = processor.batch_decode(logits.argmax(-1))
    assert GreedyDecoder(vocabulary).decode(logits.log_softmax(-1), (logits.shape[1],) * 2) == list(map(plain, texts))
    # A transcript is encoded as ours, and the vocabulary comes back.
    transcript = "aa ch" if vocabulary.units == "phones" else "".join(vocabulary.entries[1:3]).strip("<unk>")
    assert processor.tokenizer(transcript).input_ids == list(vocabulary.encode(transcript))
    back = read_transformers(tmp_path)
    assert back.vocabulary == vocabulary
    assert torch.equal(back.weights["head.weight"], model.weights["head.weight"])


@pytest.mark.parametrize(
    ("name", "files", "options"),
    [
        *(("Wav2Vec2ForPreTraining", {}, layout) for layout in LAYOUTS.values()),
        ("Wav2Vec2ForPreTraining", {}, {"mask_time_prob": 0.0}),
        ("Wav2Vec2ForPreTraining", {}, {"apply_spec_augment": False, "diversity_loss_weight": 0.2}),
        ("Wav2Vec2ForPreTraining", {}, {"mask_time_prob": 0.65, "mask_feature_prob": 0.1, "mask_feature_length": 4}),
        ("Wav2Vec2Model", {}, {}),
        ("HubertModel", {}, LARGE),
        ("Data2VecAudioModel", {}, {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
        ("UniSpeechModel", {}, {}),
        ("Wav2Vec2ForCTC", {"vocab": CHARACTERS}, {"vocab_size": 8}),
        ("Wav2Vec2ForCTC", {"vocab": BLANK_LAST, "tokenizer_config": OPTIONS}, {"vocab_size": 5, "pad_token_id": 4}),
        ("HubertForCTC", {"vocab": CHARACTERS}, {"vocab_size": 8}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_there_and_back_gives_the_same_bytes(
    tmp_path: Path, name: str, files: dict[str, Any], options: dict[str, Any], dtype: str
) -> None:
    """Also through our module, which has single precision."""
    came = saved(peer(name, **options).to(getattr(torch, dtype)), tmp_path / "came", **files)
    read = filled(read_transformers(came))
    for way, weights in (("direct", read.weights), ("module", {**read.weights, **built(read).state_dict()})):
        names = set(read.weights)
        kept = {key: tensor for key, tensor in weights.items() if key in names}
        write_transformers(replace(read, weights=kept), tmp_path / way)
        assert (tmp_path / way / "model.safetensors").read_bytes() == (came / "model.safetensors").read_bytes()
        for file in ("config.json", *(f"{file}.json" for file in files), "preprocessor_config.json"):
            found, wanted = (json.loads((folder / file).read_text()) for folder in (tmp_path / way, came))
            assert wanted.items() <= found.items(), file
        assert (tmp_path / way / "config.json").read_text() == (came / "config.json").read_text()


def test_what_has_changed_is_written_as_it_is(tmp_path: Path) -> None:
    """A model from a folder, fine-tuned with another vocabulary and another dropout."""
    came = saved(peer("Wav2Vec2ForPreTraining", initializer_range=0.03), tmp_path / "came")
    read = filled(read_transformers(came))
    vocabulary = Vocabulary.of("characters", ["a b"])
    config = deepcopy(read.config)
    config["init_args"]["context"]["init_args"]["dropout"] = 0.25
    weights = {**read.weights, "head.weight": torch.randn(4, 24), "head.bias": torch.randn(4)}
    write_transformers(replace(read, config=config, weights=weights, vocabulary=vocabulary), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["hidden_dropout"], found["initializer_range"], found["attention_dropout"]) == (0.25, 0.03, 0.1)
    assert (found["architectures"], found["vocab_size"], found["pad_token_id"]) == (["Wav2Vec2ForCTC"], 4, 0)
    assert from_pretrained(tmp_path / "out").config.hidden_dropout == 0.25


def test_a_model_of_ours_with_the_positions_of_data2vec(tmp_path: Path) -> None:
    model = ours(encoder__normalization="layer", context__position_layers=3, context__position_kernel=5)
    write_transformers(model, tmp_path, plain=True)
    theirs = from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Data2VecAudioModel"
    with torch.no_grad():
        expected = theirs(WAVEFORM).last_hidden_state
    assert torch.allclose(hidden_states(built(model), WAVEFORM)[-1], expected, atol=1e-5)


def test_a_mask_embedding_that_the_source_lacked_is_not_written(tmp_path: Path) -> None:
    """`w2vlab import` writes a checkpoint with a new one, which was never trained."""
    came = saved(peer("Wav2Vec2ForPreTraining", mask_time_prob=0.0), tmp_path / "came")
    read = filled(read_transformers(came))
    imported = replace(read, weights=built(read).state_dict())
    write_transformers(imported, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (came / "model.safetensors").read_bytes()


def test_a_model_of_hubert_with_a_quantizer_becomes_wav2vec2(tmp_path: Path) -> None:
    """Pretrained further with our objective, for which there is no class of HuBERT."""
    read = read_transformers(saved(peer("HubertModel"), tmp_path / "came"))
    config = deepcopy(read.config)
    config["init_args"]["quantizer"] = SMALL_OURS["quantizer"]
    config["init_args"]["loss"] = SMALL_OURS["loss"]
    config["init_args"]["penalties"] = None
    model = filled(replace(read, config=config, missing=()))
    torch.manual_seed(0)
    weights = {**build_model(model.config, PretrainingModule, "test").state_dict(), **read.weights}
    write_transformers(replace(model, weights=weights), tmp_path / "out")
    theirs = from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "Wav2Vec2ForPreTraining"
    with torch.no_grad():
        expected = theirs.wav2vec2(WAVEFORM).last_hidden_state
    assert torch.allclose(hidden_states(opened(tmp_path / "came"), WAVEFORM)[-1], expected, atol=1e-5)


def test_a_model_for_ctc_is_read_from_a_folder_for_pretraining_with_a_new_head(tmp_path: Path) -> None:
    """As transformers says of its own: the head is missing, quantizer and projections are left over."""
    write_transformers(ours(), tmp_path)
    _, report = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"lm_head.weight", "lm_head.bias"}
    assert {key.partition(".")[0] for key in report["unexpected_keys"]} == {"quantizer", "project_q", "project_hid"}


@pytest.mark.parametrize("layout", ["base", "large"])
def test_a_model_of_units_is_a_hubert(tmp_path: Path, layout: str) -> None:
    """And comes back without its units, which are no part of it."""
    parts = {
        "quantizer": {"class_path": "w2vlab.quantizers.FileTargets", "init_args": {"path": "absent"}},
        "loss": {"class_path": "w2vlab.losses.CodePredictionLoss", "init_args": {"similarity": "cosine"}},
    }
    model = ours(**OPTIONS_OF_OURS[layout], **parts)
    notes = write_transformers(model, tmp_path / "out")
    assert "Quantizer and loss are not written." in notes
    theirs, report = transformers.HubertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["HubertModel"]
    module, waveform = built(model), WAVEFORM
    if layout == "large":
        extract = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "out")
        waveform = extract(WAVEFORM[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = theirs.eval()(waveform).last_hidden_state
    assert_close(module.features(WAVEFORM), expected, rtol=1e-4, atol=1e-4)
    vocabulary = Vocabulary.of("characters", ["ab"])
    write_transformers(ours(vocabulary, **OPTIONS_OF_OURS[layout], **parts), tmp_path / "ctc")
    assert type(from_pretrained(tmp_path / "ctc")).__name__ == "HubertForCTC"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder__activation": "relu"},
            "`model.encoder.activation` must be gelu to be written for transformers",
        ),
        ({"encoder__log_compression": True}, "`model.encoder.log_compression` must be false .*, but is true"),
        ({"encoder__skip_connections": True}, "`model.encoder.skip_connections` must be false"),
        ({"encoder__normalization": "group"}, "`model.encoder.normalization` must be first_group or layer"),
        ({"encoder": {"class_path": "w2vlab.encoders.LogMelEncoder"}}, "`model.encoder` must be ConvFeatureEncoder"),
        ({"context": {"class_path": "w2vlab.contexts.ConvContext"}}, "`model.context` must be TransformerContext"),
        (
            {"context__attention_positions": {"class_path": "w2vlab.positions.RotaryPositions"}},
            "`model.context.attention_positions` must be null .*, but is RotaryPositions: the attention of",
        ),
        ({"context__qkv_bias": False}, "`model.context.qkv_bias` must be true .*, but is false: the projections to"),
        ({"context__position_layers": 3}, "`model.context.position_layers` must be 1 .*, but is 3: only its data2vec"),
        ({"quantizer__projection_depth": 2}, "`model.quantizer.projection_depth` must be 1 .*, but is 2"),
        ({"quantizer__shared_codebook": True}, "`model.quantizer.shared_codebook` must be false"),
        ({"quantizer": {"class_path": "w2vlab.quantizers.FiniteScalarQuantizer"}}, "`model.quantizer` must be GumbelQ"),
        ({"loss__target_projection": "glu"}, "`model.loss.target_projection` must be linear .*, but is glu"),
        ({"loss": {"class_path": "w2vlab.losses.CodePredictionLoss"}}, "`model.loss` must be ContrastiveLoss"),
        ({"inputs": "quantized"}, "`model.inputs` must be continuous .*, but is quantized"),
        (
            {"target_encoder": {"class_path": "w2vlab.encoders.ConvFeatureEncoder"}},
            "`model.target_encoder` must be null .*, but is ConvFeatureEncoder",
        ),
    ],
)
def test_what_transformers_cannot_express_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model = ours()
    for name, value in options.items():
        part, _, option = name.partition("__")
        arguments = model.config["init_args"]
        (arguments[part]["init_args"] if option else arguments)[option or part] = value
    with pytest.raises(ValueError, match=message):
        write_transformers(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_objectives_and_other_tensors_are_refused(tmp_path: Path) -> None:
    model = ours()
    future = replace(model, config={**model.config, "class_path": "w2vlab.modules.FuturePrediction"})
    with pytest.raises(ValueError, match=r"`model` must be MaskedPrediction .*, but is FuturePrediction"):
        write_transformers(future, tmp_path / "out")
    extra = replace(model, weights={**model.weights, "another.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"another.weight is not one of them"):
        write_transformers(extra, tmp_path / "out")


def test_a_vocabulary_with_the_sign_between_words_is_refused(tmp_path: Path) -> None:
    """transformers 5.24 has `word_delimiter_token`, but forgets it when it loads the tokenizer."""
    with pytest.raises(ValueError, match=r"The vocabulary must not have \| to be written for transformers"):
        write_transformers(ours(Vocabulary.of("characters", ["a|b c"])), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "a": 1, "_": 2}))
    transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), word_delimiter_token="_").save_pretrained(tmp_path)
    assert transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path).word_delimiter_token == "|"
    assert tokenizer.parse(tokenizer.read_files(tmp_path), 3, "x").vocabulary.decode([1, 2, 1]) == "a a", "ours has it"
