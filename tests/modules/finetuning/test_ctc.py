"""What fine-tuning trains, from what, and by which loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.modules.finetuning.recognition import (
    CONFIGS,
    MASKS,
    NOISY,
    QUIET,
    TRANSCRIPTS,
    VOCABULARY,
    pretrain,
    recognizer,
    spoken_batch,
    spoken_batches,
)
from tests.modules.training import loader, make_trainer, parameters_of
from w2vlab.decoders import GreedyDecoder
from w2vlab.masking import NoMasking
from w2vlab.modules import CTCFineTuning
from w2vlab.modules.finetuning import ctc
from w2vlab.modules.finetuning.pretrained import Pretrained, read_pretrained
from w2vlab.types import AudioBatch, RandomAddress
from w2vlab.vocabulary import Vocabulary

WITH_CODES = ("quantized", "codes")

HEAD = ("head.",)
ENCODER = ("frontend.encoder.",)
LATER = ("frontend.norm.", "context.", "mask_embedding")
"""What learns once nothing is frozen any more."""


@pytest.fixture(scope="module", autouse=True)
def parsed_once() -> Iterator[None]:
    """Building a model from its configuration takes ten times as long as all else here, so most tests get a copy."""
    found: dict[str, Pretrained] = {}

    def read(*arguments: Any, **options: Any) -> Pretrained:
        key = repr((arguments, options))
        if key not in found:
            found[key] = read_pretrained(*arguments, **options)
        return deepcopy(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "read_pretrained", read)
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pretrained")
    for kind in CONFIGS:
        pretrain(folder / f"{kind}.ckpt", kind)
    return {kind: folder / f"{kind}.ckpt" for kind in CONFIGS}


@pytest.fixture
def make(checkpoints: dict[str, Path]) -> Callable[..., CTCFineTuning]:
    return lambda kind="masked", **options: recognizer(checkpoints[kind], **options)


def fit(
    model: CTCFineTuning, batches: list[AudioBatch], updates: int, accumulate: int = 1, **options: Any
) -> pl.Trainer:
    trainer = make_trainer(updates, accumulate, **options)
    trainer.fit(model, loader(batches, accumulate))
    return trainer


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


class Snapshots(pl.Callback):
    """Keeps the parameters before the first update and after each one, and which of them had a gradient in it."""

    def __init__(self) -> None:
        self.parameters: list[dict[str, Tensor]] = []
        self.taught: list[set[str]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.parameters.append(parameters_of(pl_module))

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        self.taught.append({name for name, p in pl_module.named_parameters() if p.grad is not None and p.grad.any()})

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.parameters.append(parameters_of(pl_module))


@pytest.mark.parametrize("kind", CONFIGS)
def test_pretrained_parts_are_taken_over(kind: str, make: Callable, checkpoints: dict[str, Path]) -> None:
    saved = torch.load(checkpoints[kind], weights_only=True)["state_dict"]
    model = make(kind)
    own = model.state_dict()
    for name, value in saved.items():
        if name.startswith("context."):
            assert torch.equal(own[name], value)
        elif name.startswith(("encoder.", "norm.")):
            assert torch.equal(own[f"frontend.{name}"], value)
        elif name == "mask_embedding":
            assert torch.equal(own[name], value)
        elif name.startswith("quantizer.") and kind in WITH_CODES:
            assert torch.equal(own[f"frontend.{name}"], value)
    assert {name.split(".")[0] for name in own} == {"frontend", "context", "mask_embedding", "head"}
    assert any(name.startswith("frontend.quantizer.") for name in own) == (kind in WITH_CODES)


@pytest.mark.parametrize("kind", CONFIGS)
def test_contexts_are_those_of_the_pretrained_model(kind: str, make: Callable, tmp_path: Path) -> None:
    pretrained = pretrain(tmp_path / "model.ckpt", kind).eval()
    model, batch = make(kind).eval(), spoken_batch(3)
    encoding = pretrained.encode(batch)
    frames = pretrained.context.project(pretrained.context_inputs(encoding))
    expected = pretrained.context(frames, encoding.padding_mask)
    actual = model.head(expected).float().log_softmax(dim=-1)
    for row, frames_of_row in enumerate(encoding.num_frames):
        assert torch.allclose(model(batch).log_probabilities[row, :frames_of_row], actual[row, :frames_of_row])


def test_loss_is_torchs_on_a_literal_example(make: Callable) -> None:
    """The mean over utterances of the sum over paths, in evaluation, where nothing is masked."""
    model = make()
    batch = spoken_batch(3)
    (logged,) = make_trainer(1).validate(model, loader([batch]), verbose=False)
    model.eval()
    encoding = model.frontend(batch)
    context = model.context(model.context.project(encoding.latents), encoding.padding_mask)
    log_probs = model.head(context).log_softmax(dim=-1).transpose(0, 1)
    # "ab", "ba ab", "b" in the entries blank, space, a, b.
    targets = torch.tensor([[2, 3, 0, 0, 0], [3, 2, 1, 2, 3], [3, 0, 0, 0, 0]])
    losses = F.ctc_loss(log_probs, targets, encoding.num_frames, (2, 5, 1), reduction="none")
    assert logged["val/loss/ctc"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert logged["val/loss/total"] == logged["val/loss/ctc"]


def test_gradient_is_that_of_the_mean_over_utterances(make: Callable) -> None:
    snapshots = Snapshots()
    model = make(masking=NoMasking)
    before = parameters_of(model)
    fit(model, [spoken_batch(4)], 1, callbacks=[snapshots])
    reference = make(masking=NoMasking)
    values = reference._summed_loss(reference(spoken_batch(4)), spoken_batch(4))
    (values["total"] / 4).backward()
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            expected = before[name] - 0.05 * parameter.grad
            assert torch.allclose(snapshots.parameters[-1][name], expected, atol=1e-6), name


@pytest.mark.parametrize("optimizer", [partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1), None])
def test_what_is_frozen_when(make: Callable, optimizer: Any) -> None:
    """The encoder always; all but the linear layer for two updates, from its weights decaying too."""
    options = {} if optimizer is None else {"optimizer": optimizer}
    snapshots = Snapshots()
    model = make(freeze_updates=2, **options)
    fit(model, spoken_batches(4, 1, 3), 4, callbacks=[snapshots])
    moves = [moved(*pair) for pair in zip(snapshots.parameters, snapshots.parameters[1:], strict=False)]
    names = set(snapshots.parameters[0])
    head, later = ({name for name in names if name.startswith(prefix)} for prefix in (HEAD, LATER))
    assert names == head | later | {name for name in names if name.startswith(ENCODER)}
    assert moves[:2] == [head, head]
    assert moves[2:] == [head | later] * 2
    assert [taught <= move for taught, move in zip(snapshots.taught, moves, strict=True)] == [True] * 4


def test_a_skipped_update_while_frozen_changes_nothing(make: Callable) -> None:
    model = make(freeze_updates=3)
    batch = spoken_batch(2)
    batch.waveform[0, 100] = torch.nan
    before = parameters_of(model)
    fit(model, [batch], 1)
    assert model.skipped.total == 1
    assert not moved(before, parameters_of(model))


def test_the_encoder_is_trained_if_asked(make: Callable) -> None:
    model = make(train_encoder=True)
    before = parameters_of(model)
    fit(model, spoken_batches(1, 1, 3), 1)
    assert moved(before, parameters_of(model)) == set(before)


def test_new_weights_are_others_and_all_of_them_learn(make: Callable) -> None:
    model, pretrained = make(reinitialise=True, freeze_updates=5), make()
    assert model.freeze_updates == 0
    ours, theirs = parameters_of(model), parameters_of(pretrained)
    # Not biases, nor the scale of the positional convolution, which begin alike.
    matrices = {n for n, p in theirs.items() if p.ndim > 1 and not n.startswith("head.") and "original0" not in n}
    assert len(matrices) > 8
    assert matrices <= moved(theirs, ours)
    fit(model, spoken_batches(1, 1, 3), 1)
    assert moved(ours, parameters_of(model)) == set(ours)


@pytest.mark.parametrize("kind", WITH_CODES)
def test_what_reads_codes_cannot_teach_them(kind: str, make: Callable) -> None:
    model = make(kind)
    before = parameters_of(model)
    fit(model, spoken_batches(1, 1, 3), 1)
    assert {name.split(".")[0] for name in moved(before, parameters_of(model))} == {"head", "context", "mask_embedding"}
    for option in ("train_encoder", "reinitialise"):
        with pytest.raises(ValueError, match="`train_encoder` must be false if the inputs of the context"):
            make(kind, **{option: True})


def test_codes_are_those_of_evaluation(make: Callable) -> None:
    """Training draws no Gumbel noise in a quantizer that does not learn, and its temperature is not logged."""
    model, batch = make("codes", masking=NoMasking), spoken_batch(2)
    trainer = fit(model, [batch], 1)
    assert not any("temperature" in name for name in trainer.callback_metrics)
    address = RandomAddress(seed=1, update=0, ids=batch.ids)
    model.train()
    assert torch.equal(model(batch, address).log_probabilities, model(batch, address).log_probabilities)


def test_masks_are_drawn_in_training_only(make: Callable) -> None:
    model, unmasked, batch = make(), make(masking=NoMasking), spoken_batch(3)
    model.train()
    seen = [model(batch, RandomAddress(seed=1, update=update, ids=batch.ids)).log_probabilities for update in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    plain = model.eval()(batch).log_probabilities
    assert not torch.equal(seen[0], plain)
    address = RandomAddress(seed=1, update=0, ids=batch.ids)
    assert torch.equal(unmasked(batch, address).log_probabilities, plain)
    losses = [make_trainer(1).validate(each, loader([batch]), verbose=False) for each in (model, unmasked)]
    assert losses[0] == losses[1]


def test_context_options_count(make: Callable) -> None:
    model = make(context_options={**QUIET, "dropout": 0.3, "layer_drop": 0.25})
    assert model.context.layers.layer_drop == 0.25
    assert model.context.dropout.p == 0.3
    assert model.pretrained_config["init_args"]["context"]["init_args"]["layer_drop"] == 0.25


def test_layers_are_dropped_anew_in_each_update(make: Callable) -> None:
    model = make(context_options={**QUIET, "layer_drop": 0.5})
    drawn = set()
    for update in range(20):
        model.set_update(update)
        drawn.add(model.context.layers.dropped)
    assert len(drawn) == 4


class Says(GreedyDecoder):
    """Predicts given units."""

    def decode(self, log_probabilities: Tensor, num_frames: Any) -> list[str]:
        return ["ab", "ab ab", "", "a bb b"][: len(num_frames)]


def test_utterances_that_do_not_fit_are_counted_and_left_out(make: Callable, caplog: pytest.LogCaptureFixture) -> None:
    """One says more than it has frames for, and one nothing; the update is that of the others."""
    transcripts = ("ab", "a" * 30, "-", "ba")
    batch = spoken_batch(4, transcripts=transcripts)
    model, without = make(masking=NoMasking), make(masking=NoMasking)
    trainer = fit(model, [batch], 1)
    assert trainer.callback_metrics["train/unfit_utterances"] == 2
    assert "2 utterances excluded from the loss in this process so far" in caplog.text
    assert caplog.text.count("utterance-2") == 1
    rows = [0, 3]
    kept = replace(
        batch,
        waveform=batch.waveform[rows],
        num_samples=tuple(batch.num_samples[row] for row in rows),
        ids=tuple(batch.ids[row] for row in rows),
        transcripts=tuple(transcripts[row] for row in rows),
    )
    alone = fit(without, [kept], 1)
    assert trainer.callback_metrics["train/loss/ctc"] == pytest.approx(alone.callback_metrics["train/loss/ctc"].item())
    for name, value in parameters_of(without).items():
        assert torch.allclose(dict(model.named_parameters())[name], value, atol=1e-6), name


def test_units_that_are_not_in_the_vocabulary_are_logged_once(make: Callable, caplog: pytest.LogCaptureFixture) -> None:
    """They are not in the loss, but errors all the same."""
    model = make(decoder=Says)
    odd, plain = spoken_batch(1, transcripts=["a?b!"]), spoken_batch(1, transcripts=["ab"])
    (with_odd,), (without,) = (make_trainer(1).validate(model, loader([b]), verbose=False) for b in (odd, plain))
    make_trainer(1).validate(model, loader([odd]), verbose=False)
    assert caplog.text.count("does not have '!', '?'") == 1
    assert with_odd["val/loss/ctc"] == without["val/loss/ctc"]
    assert (with_odd["val/cer"], without["val/cer"]) == (0.5, 0)


def test_an_update_without_a_fitting_utterance_changes_nothing(make: Callable) -> None:
    model = make()
    before = parameters_of(model)
    trainer = fit(model, [spoken_batch(2, transcripts=["b" * 99])], 1)
    assert trainer.callback_metrics["train/loss/total"] == 0
    assert model.skipped.total == 0, "0 predictions do not make a loss that is not finite"
    assert not moved(before, parameters_of(model))


@pytest.mark.parametrize("size", [4, 2])
def test_error_rates(size: int, make: Callable) -> None:
    """Against "ab", "ba ab", "b", "a bb a": 3 of 7 words, and 2 + 1 + 1 of 14 characters."""
    model = make(decoder=Says)
    batches = [spoken_batch(4)] if size == 4 else [spoken_batch(2), spoken_batch(2)]
    if size == 2:  # one that another process counts adds nothing
        batches[1].counted = False
    (logged,) = make_trainer(1).validate(model, loader(batches), verbose=False)
    words, characters = ((3, 7), (4, 14)) if size == 4 else ((1, 3), (2, 7))
    assert logged["val/wer"] == pytest.approx(words[0] / words[1])
    assert logged["val/cer"] == pytest.approx(characters[0] / characters[1])
    assert set(logged) == {"val/wer", "val/cer", "val/loss/ctc", "val/loss/total", "val/unfit_utterances"}
    assert model.examples[:2] == [("utterance-0", "ab", "ab"), ("utterance-1", "ba ab", "ab ab")]
    assert len(model.examples) == min(3, size)


def test_phones_have_a_phone_error_rate(make: Callable) -> None:
    vocabulary = Vocabulary.of("phones", ["aa b", "k"])
    model = make(units="phones", vocabulary=vocabulary)
    batch = spoken_batch(2, transcripts=["aa b k", "k"])
    (logged,) = make_trainer(1).validate(model, loader([batch]), verbose=False)
    assert "val/per" in logged
    assert not {"val/wer", "val/cer"} & set(logged)


def test_names_in_the_logs_of_training(make: Callable) -> None:
    trainer = fit(make(), [spoken_batch(2)], 1)
    names = {"loss/ctc", "loss/total", "unfit_utterances", "gradient_norm"}
    assert set(trainer.callback_metrics) == {f"train/{name}" for name in names}


@pytest.mark.parametrize(("freeze_updates", "accumulate"), [(0, 2), (0, 3), (1, 2)])
def test_update_does_not_depend_on_accumulation(freeze_updates: int, accumulate: int, make: Callable) -> None:
    """In float64, with masks and a frozen start; utterances of other lengths weigh alike."""
    models = [make(freeze_updates=freeze_updates).double() for _ in range(2)]
    fit(models[0], spoken_batches(3, 1, 6), 3, precision="64-true")
    fit(models[1], spoken_batches(3, accumulate, 6 // accumulate), 3, accumulate, precision="64-true")
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-12), name


def tones(letters: str) -> Tensor:
    """80 samples of a different tone for each letter, and of silence for a space."""
    time = torch.arange(80) / 16_000
    pitch = {"a": 600.0, "b": 1500.0, "c": 3300.0}
    pieces = [torch.sin(2 * torch.pi * pitch[x] * time) if x in pitch else torch.zeros(80) for x in letters]
    return 0.5 * torch.cat(pieces)


def test_two_utterances_are_learned_by_heart(make: Callable) -> None:
    """Tones for letters, from new weights: WER and CER reach 0."""
    said = ("abc ba", "cab ac")
    waveform = torch.stack([tones(transcript) for transcript in said])
    batch = AudioBatch(waveform=waveform, num_samples=(480, 480), ids=("one", "two"), transcripts=said)
    model = make(
        vocabulary=Vocabulary.of("characters", said),
        reinitialise=True,
        masking=NoMasking,
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0),
    )
    before, after = (_validated(model, batch, updates) for updates in (0, 150))
    assert before["val/cer"] > 0.5
    assert after["val/wer"] == 0
    assert after["val/cer"] == 0
    assert [found for _, _, found in model.examples] == list(said)


def _validated(model: CTCFineTuning, batch: AudioBatch, updates: int) -> dict[str, float]:
    if updates:
        make_trainer(updates).fit(model, loader([batch] * updates))
    (logged,) = make_trainer(1).validate(model, loader([batch]), verbose=False)
    return dict(logged)


def test_noise_of_the_device_is_that_of_the_update(make: Callable) -> None:
    """Dropout is seeded by (seed, update, micro-batch), so a run is repeatable, independent of earlier random draws."""
    losses = []
    for seed in (1, 2):
        model = make(context_options=NOISY, masking=MASKS)
        torch.manual_seed(seed)
        losses.append(fit(model, [spoken_batch(3)], 1).callback_metrics["train/loss/ctc"])
    assert losses[0] == losses[1]


def test_transcripts_are_needed(make: Callable) -> None:
    with pytest.raises(ValueError, match="Batches must have transcripts"):
        fit(make(), [replace(spoken_batch(2), transcripts=None)], 1)


def test_a_vocabulary_is_needed(make: Callable) -> None:
    with pytest.raises(ValueError, match="`set_vocabulary` must be called"):
        fit(make(vocabulary=None), [spoken_batch(2)], 1)


def test_the_vocabulary_is_set_once(make: Callable) -> None:
    model = make()
    head = model.head
    model.set_vocabulary(Vocabulary.of("characters", TRANSCRIPTS))
    assert model.head is head
    assert model.head.out_features == len(VOCABULARY) == 4
