"""When the teacher learns, what reaches it, and what its targets depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import address, audio_batch, factory
from tests.modules.teaching.toys import TEACHER, Updates, averages, dinosr, student, teacher_model
from tests.modules.test_non_finite import with_nan
from tests.modules.training import fit, make_batches
from w2vlab.augmentations import UtteranceMixing
from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, RegressionLoss
from w2vlab.modules import TeacherPrediction
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer
from w2vlab.teachers import EMATeacher

COPIED = ("input_projection", "positions")

objectives = pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])


def expected_decay(update: int) -> float:
    """Of the update after `update` others, by hand."""
    share = min(1.0, (update + 1) / TEACHER["anneal_updates"])
    return TEACHER["decay"] + (TEACHER["end_decay"] - TEACHER["decay"]) * share


@objectives
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_follows_once_an_update_after_the_step(build: Any, accumulate: int) -> None:
    """The average moves towards the weights of after the step, and in no other micro-batch."""
    updates, model = Updates(), build()
    fit(model, make_batches(5, accumulate, 2), 5, accumulate, callbacks=[updates], precision="64-true")
    for number in range(5):
        first, last = number * accumulate, (number + 1) * accumulate
        for inner in range(first + 1, last):  # micro-batches before the last one of the update
            assert all(torch.equal(updates.teachers[inner][name], updates.teachers[first][name]) for name in COPIED_OF)
        decay = expected_decay(number)
        for name, value in updates.teachers[last].items():
            weight, before = updates.students[last][name], updates.teachers[first][name]
            if name.startswith(COPIED):
                assert torch.equal(value, weight), name
            else:
                assert_close(value, decay * before + (1 - decay) * weight, rtol=1e-13, atol=1e-15)
        assert updates.metrics[last]["train/teacher_decay"] == pytest.approx(decay)
    assert any(not torch.equal(updates.teachers[0][name], value) for name, value in updates.teachers[-1].items())


COPIED_OF = [name for name in averages(teacher_model()) if not name.startswith(COPIED)]


@objectives
@pytest.mark.parametrize("damage", ["audio", "gradient"])
def test_a_skipped_update_leaves_it_alone(build: Any, damage: str) -> None:
    """Bit by bit, with the codebook and the copied parts; the schedule goes on with the updates that were done."""
    updates, model = Updates(), build()
    batches, damaged = make_batches(4, 2, 2), 3  # the second micro-batch of the second update
    if damage == "audio":
        batches = with_nan(batches, damaged)
    else:  # finite audio and losses, and a gradient that overflows
        factors = iter([float("inf") if number == damaged else 1.0 for number in range(len(batches))])
        model.mask_embedding.register_hook(lambda gradient: gradient.abs().clamp(min=1e-3) * next(factors))
    fit(model, batches, 4, 2, callbacks=[updates])
    before, after, later = (updates.states[2 * number] for number in (1, 2, 3))
    assert all(torch.equal(after[name].view(torch.uint8), value.view(torch.uint8)) for name, value in before.items())
    moved = {name.partition(".")[0] for name, value in after.items() if not torch.equal(later[name], value)}
    assert {"teacher", "context", "encoder"} <= moved, "and training continues"
    assert all(value.isfinite().all() for value in later.values())
    assert model.skipped.total == 1


def test_a_frozen_teacher_stays_as_it_is() -> None:
    updates, model = Updates(), teacher_model(teacher={"frozen_from": 2, "copied": ()})
    fit(model, make_batches(4, 1, 2), 4, callbacks=[updates])
    one, two, three, four = updates.teachers[1:]
    assert any(not torch.equal(two[name], value) for name, value in one.items())
    assert all(torch.equal(three[name], value) and torch.equal(four[name], value) for name, value in two.items())
    assert [metrics["train/teacher_decay"] for metrics in updates.metrics[3:]] == [1.0, 1.0]


@objectives
def test_no_gradient_reaches_it(build: Any) -> None:
    """It has none, no graph leads to it, and the optimizer does not hold its weights."""
    model = build()
    output = model(audio_batch((420, 300)), address(2))
    torch.stack(list(model.objective_terms(output).values())).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    if not model.quantizer.num_codebooks:
        assert output.targets.quantized.grad_fn is None
    held = {id(p) for group in model.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert not held & {id(p) for p in model.teacher.parameters()}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}


def reached(model: TeacherPrediction) -> dict[str, bool]:
    """Whether a part has a gradient that is not zero, by its name."""
    output = model(audio_batch((420, 300)), address(2))
    torch.stack(list(model.objective_terms(output).values())).sum().backward()
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in model.named_children()
        if any(True for _ in part.parameters())
    }


@pytest.mark.parametrize(
    ("build", "quantizer_learns"),
    [
        (teacher_model, None),
        (dinosr, None),
        (lambda: teacher_model(quantizer=factory(GumbelQuantizer), loss=factory(CodePredictionLoss)), False),
        (lambda: teacher_model(quantizer=factory(GumbelQuantizer), loss=factory(RegressionLoss)), False),
        (lambda: teacher_model(quantizer=factory(GumbelQuantizer), loss=factory(ContrastiveLoss)), True),
    ],
    ids=["data2vec", "DinoSR", "codes", "vectors", "contrastive"],
)
def test_which_parts_a_loss_reaches(build: Any, quantizer_learns: bool | None) -> None:
    """Always the student and its head; a quantizer only from a loss that teaches targets."""
    found = reached(build())
    assert found.pop("teacher") is False
    assert found.pop("quantizer", None) is quantizer_learns
    assert found == dict.fromkeys(("encoder", "norm", "context", "loss"), True)


@objectives
def test_in_training_its_targets_are_those_of_evaluation(build: Any) -> None:
    """Without dropout, LayerDrop and masks: bit by bit, for any masks and in any update."""
    model = build(masked_copies=1).train()
    model.context.layers.layer_drop = 0.9
    batch = audio_batch((420, 300, 420))
    encoding = model.encode(batch)
    assert not any(module.training for module in model.teacher.modules())
    evaluation = model.teacher.eval()(encoding.latents, encoding.padding_mask)[0]
    for update in (0, 7):
        model.train().set_update(update)
        assert model.context.training
        torch.manual_seed(update)
        assert torch.equal(model.teach(encoding, batch)[0], evaluation)
        if not model.quantizer.num_codebooks:
            output = model(batch, address(3, update))
            positions = output.mask.targets
            for row, number in enumerate(output.mask.num_targets):
                chosen = evaluation[row, positions[row, :number]]
                assert_close(output.targets.quantized[row, :number], chosen, rtol=1e-6, atol=1e-6)


def test_targets_are_not_those_of_the_masked_student() -> None:
    """A fresh teacher is the student's copy: without masks and noise both compute the same, and with masks not."""
    model = teacher_model(noise=False, teacher={"output": "layer", "norm": "none", "layers": 1}).train()
    batch = audio_batch((420, 300))
    encoding = model.encode(batch)
    frames = model.context.project(encoding.latents)
    context = model.context(frames, encoding.padding_mask)
    taught = model.teach(encoding, batch)[0]
    valid = ~encoding.padding_mask
    assert_close(taught[valid], context[valid], rtol=1e-5, atol=1e-6)
    masked = model(batch, address(2)).context
    assert (masked - taught)[valid].abs().max() > 0.1


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
@pytest.mark.parametrize("output", ["feedforward", "layer"])
def test_targets_depend_neither_on_padding_nor_on_other_utterances(norm: str, output: str) -> None:
    model = teacher_model(teacher={"norm": norm, "output": output}).double()
    batch = audio_batch((300, 420, 360)).to(torch.float64)
    together, shares = model.teach(model.encode(batch), batch)
    for row, samples in enumerate(batch.num_samples):
        alone = replace(
            batch,
            waveform=batch.waveform[row : row + 1, :samples],
            num_samples=(samples,),
            ids=batch.ids[row : row + 1],
        )
        targets, share = model.teach(model.encode(alone), alone)
        assert_close(together[row, : targets.shape[1]], targets[0], rtol=1e-11, atol=1e-12)
        assert_close(shares[row], share[0], rtol=1e-10, atol=1e-12)


def test_targets_of_mixed_utterances_are_those_of_their_clean_audio() -> None:
    model = teacher_model().double()
    clean = audio_batch((420, 420, 420)).to(torch.float64)
    mixed = Augmenter([UtteranceMixing(1.0)])(clean, address(3))
    assert mixed.clean is not None
    assert not torch.equal(mixed.waveform, clean.waveform)
    assert_close(model.teach(model.encode(mixed), mixed)[0], model.teach(model.encode(clean), clean)[0])


def test_the_target_front_end_gives_what_training_predicts() -> None:
    """Codes for exports and clusters are those of the teacher's layers, also by `codes` and piece by piece."""
    model = dinosr().eval()
    batch = audio_batch((420, 300))
    expected = model.quantize(batch)
    codes = model.codes(batch.waveform, batch.num_samples)
    frontend = model.target_frontend().eval()
    encoded = frontend(batch)
    for row, samples in enumerate(batch.num_samples):
        frames = model.encoder.num_frames(samples)
        assert torch.equal(codes[row, :frames], expected.codes[row, :frames])
        assert_close(encoded.latents[row, :frames], expected.quantized[row, :frames])


def test_a_teacher_counts_as_not_trained() -> None:
    model = teacher_model()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    network = sum(p.numel() for p in model.context.parameters())
    assert sum(p.numel() for p in model.parameters()) == trained + network
    assert sum(p.numel() for p in model.teacher.parameters()) == network


def test_buffers_of_a_network_are_followed_too() -> None:
    """Such as the statistics of a batch norm of somebody's context network, with which the teacher computes."""
    model = teacher_model()
    for network in (model.context, model.teacher.network):
        network.register_buffer("statistics", torch.zeros(3))
        network.register_buffer("count", torch.zeros((), dtype=torch.int64))
    model.context.statistics += 2
    model.context.count += 5
    model.teacher.follow(model.context, 0, skipped=torch.tensor(True))
    assert not model.teacher.network.statistics.any()
    model.teacher.follow(model.context, 0, skipped=torch.tensor(False))
    assert torch.equal(model.teacher.network.statistics, model.context.statistics)
    assert model.teacher.network.count == 5


def test_restart_copies_the_student() -> None:
    model = teacher_model()
    with torch.no_grad():
        for parameter in model.context.parameters():
            parameter.add_(0.5)
    assert any(not torch.equal(value, student(model)[name]) for name, value in averages(model).items())
    model.teacher.restart(model.context)
    assert all(torch.equal(value, student(model)[name]) for name, value in averages(model).items())


def test_validation_logs_the_variance_of_targets_and_moves_nothing() -> None:
    updates, model = Updates(), dinosr()
    batches = make_batches(2, 1, 3)
    record = fit(model, batches, 2, validation=batches, val_check_interval=1, callbacks=[updates])
    assert 0 < record.metrics[-1]["val/target_variance"] <= 1
    plain = Updates()
    fit(dinosr(), batches, 2, callbacks=[plain])
    for name, value in plain.states[-1].items():
        assert torch.equal(updates.states[-1][name], value), name


def test_codebooks_learn_from_the_layers_of_the_teacher() -> None:
    """Codebook k follows layer k: its sums are those of the targets of masked frames, cut into the layers."""
    model = dinosr(noise=False)
    assert isinstance(model.quantizer, EMAQuantizer)
    assert isinstance(model.teacher, EMATeacher)
    assert model.quantizer.output_dim == 2 * model.context.output_dim
    batch = audio_batch((420, 300))
    output = model(batch, address(2))
    taught = model.teach(model.encode(batch), batch, output.mask.targets)[0]
    codebook = model.quantizer.codebook
    summed = sum(
        taught[row, :number].reshape(number, 2, -1).sum(dim=0) for row, number in enumerate(output.mask.num_targets)
    )
    assert_close(codebook._sums.sum(dim=1), summed, rtol=1e-4, atol=1e-4)
    assert codebook._counts.sum() == 2 * sum(output.mask.num_targets)
