"""`w2vlab explain` describes a configuration as its parts behave."""

from __future__ import annotations

import json
import math
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv1d
from torch.utils.flop_counter import FlopCounterMode

from tests.cli.conftest import RUN
from tests.contracts.tiny import WIDTH, address, audio_batch, build_model, classes, factory
from w2vlab.cli.main import main
from w2vlab.contexts import TransformerContext
from w2vlab.data import SpeechDataModule
from w2vlab.explain import cost as explain_cost
from w2vlab.explain import flow as explain_flow
from w2vlab.explain.cost import count_cost, optimizer_bytes
from w2vlab.explain.explanation import explain
from w2vlab.explain.flow import trace_flow
from w2vlab.explain.run import blind_loss, measure_masking, num_processes, scheduled_values
from w2vlab.explain.text import print_explanation
from w2vlab.functional.kernels import spectra
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, FuturePredictionLoss
from w2vlab.masking import NoMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.modules.counting.without_values import objective_without_values
from w2vlab.optim import CosineSchedule, PolynomialSchedule
from w2vlab.quantizers import FileTargets, IdentityQuantizer
from w2vlab.types import Mask


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The tiny run without a corpus, in an empty folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RUN))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return path


@pytest.fixture
def explained(config, capsys):
    def explain(*args):
        assert main(["explain", f"--config={config}", "--json", *args]) == 0
        return json.loads(capsys.readouterr().out)

    return explain


def test_the_tiny_run_in_numbers(explained):
    result = explained("--trainer.devices=2", "--trainer.accumulate_grad_batches=3")
    # three convolutions (kernel, stride): (10, 5), (8, 8), (8, 8)
    assert result["frames"]["receptive_field_samples"] == 10 + 7 * 5 + 7 * 40
    assert result["frames"]["stride_samples"] == 320
    assert result["frames"]["frame_rate_hz"] == 50
    assert result["frames"]["shortest_utterance_seconds"] == 0.5
    assert result["codes"]["bits_per_frame"] == 2 * math.log2(8)
    assert result["codes"]["bits_per_second"] == 300
    assert result["codes"]["max_perplexity"] == 16
    assert result["start"]["num_candidates"] == 6
    assert result["start"]["nats"] == pytest.approx(math.log(6))
    assert result["start"]["bits"] == pytest.approx(math.log2(6))
    assert result["update"]["processes"] == 2
    assert result["update"]["utterances"] == 5 * 2 * 3
    assert result["update"]["audio_seconds"] == 5 * 2 * 3
    assert result["update"]["audio_hours"] == pytest.approx(4 * 30 / 3600)
    assert result["schedule_updates"] == [0, 2, 4]
    assert result["schedule"]["gumbel_temperature"] == pytest.approx([2.0 * 0.999995**update for update in (0, 2, 4)])
    assert result["schedule"]["learning_rate"] == pytest.approx([0.001 * step / 32_000 for step in (1, 2, 4)])


def test_utterances_of_a_batch_count_as_in_the_data(explained):
    # a second counts as two: 5 s are of two utterances, and not of five
    result = explained("--data.quadratic_seconds=1", "--no_gradients")
    assert result["update"]["utterances"] == 2


def test_it_needs_no_corpus_and_leaves_no_files(explained):
    explained("--ckpt_path=last")
    assert list(Path.cwd().iterdir()) == []


def test_the_flow_has_the_shapes_of_a_real_pass(explained):
    result = explained("--no_gradients")
    steps = {step["part"]: step for step in result["flow"]["steps"]}
    assert list(steps) == ["encoder", "norm", "masking", "quantizer", "context", "loss", "objective"]
    frames, targets = 1 + (16_000 - 325) // 320, result["flow"]["sizes"]["M"]
    assert steps["encoder"]["takes"] == {"waveform": [2, 16_000]}
    assert steps["encoder"]["gives"] == {"": [2, frames, 8]}
    assert steps["masking"]["gives"] == {"frames": [2, frames], "targets": [2, targets]}
    assert steps["quantizer"]["takes"] == {"latents": [2, targets, 8]}
    assert steps["quantizer"]["gives"]["probabilities"] == [2, targets, 2, 8]
    assert steps["loss"]["takes"]["targets.quantized"] == [2, targets, 8]
    assert steps["objective"]["gives"] == {"contrastive": [], "diversity": [], "feature": []}


def test_parameters_of_the_parts_add_up(explained):
    result = explained()
    assert sum(result["parameters"].values()) == result["num_parameters"]
    assert result["num_frozen"] == 0
    # one weight a tap and channel: 8 x 1 x 10, 8 x 8 x 8 twice, and the group norm of the first layer
    assert result["parameters"]["encoder"] == 80 + 2 * 512 + 16
    assert result["parameters"]["codebook"] == 2 * 8 * 4


def test_which_loss_trains_which_part(explained):
    norms = explained()["gradients"]["norms"]
    assert {part for part, norm in norms["contrastive"].items() if norm == 0} == set()
    assert {part for part, norm in norms["diversity"].items() if norm > 0} == {"encoder", "norm", "scores"}
    assert {part for part, norm in norms["feature"].items() if norm > 0} == {"encoder"}


def test_gradients_and_their_terms_can_be_left_out(explained):
    result = explained("--no_gradients")
    assert result["gradients"] is None
    assert result["start"]["terms"] is None


def test_predictions_are_those_of_an_update(explained):
    result = explained("--data.batch_seconds=3", "--trainer.accumulate_grad_batches=2")
    frames = 1 + (16_000 - 325) // 320
    expected = result["masking"]["predicted"] * frames * 3 * 2
    assert result["update"]["predictions"] == pytest.approx(expected)
    assert result["codes"]["measurable_bits"] == pytest.approx(min(6, math.log2(expected)))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_the_text_has_the_same_numbers(config, capsys):
    assert main(["explain", f"--config={config}", "--model.quantizer=IdentityQuantizer"]) == 0
    text = capsys.readouterr().out
    for part in ("325 samples", "none: targets are continuous", "of the frames are hidden", "ln 6 = 1.7918 nats"):
        assert part in text
    assert "contrastive  diversity  feature" in text


def test_future_prediction(explained):
    result = explained(
        "--model=FuturePrediction",
        "--model.context=ConvContext",
        "--model.context.layers=[[8,2]]",
        "--model.loss=FuturePredictionLoss",
        "--no_gradients",
    )
    frames = 1 + (16_000 - 325) // 320
    ahead = math.ceil(325 / 320)
    predictions = sum(frames - step for step in range(ahead, ahead + 12))
    assert result["masking"] is None
    assert "M" not in result["flow"]["sizes"]
    assert result["update"]["predictions"] == predictions * 5
    assert result["start"]["blind"] == pytest.approx(result["start"]["num_candidates"] * math.log(2))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            [],
            ": 11 x ln 2, as each candidate is judged true or false by itself, which costs ln 2; ln 11 is of a choice",
        ),
        (["--model.loss.balanced_classes=true"], ": 2 x ln 2, as each candidate is judged true or false by itself"),
        (["--model.loss.objective=infonce"], " at zero\n"),
    ],
    ids=["logistic", "balanced", "infonce"],
)
def test_a_loss_that_does_not_choose_among_candidates_explains_its_start(options, why, config, capsys):
    swaps = ["--model=FuturePrediction", "--model.context=ConvContext", "--model.context.layers=[[8,2]]"]
    loss = ["--model.loss=FuturePredictionLoss", "--model.loss.num_negatives=10", *options]
    assert main(["explain", f"--config={config}", "--no_gradients", *swaps, *loss]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines(keepends=True) if "uninformed loss" in line]
    assert why in re.sub(r" +\n", "\n", line)


def test_unknown_part_is_explained_as_by_fit(config, capsys):
    assert main(["explain", f"--config={config}", "--model.quantizer=GumbleQuantizer"]) == 2
    assert "Unknown quantizer 'GumbleQuantizer'." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.quantizer.codebook_size=1"], "`model.quantizer.codebook_size` must be at least 2, but is 1."),
        (["--data.batch_seconds=0.5"], "`data.batch_seconds` must be at least `data.max_seconds`, 1.0, but is 0.5."),
        (
            ["--data.min_seconds=0.1", "--data.max_seconds=0.1"],
            "`data.max_seconds` must be at least 0.240 for this model, but is 0.1.",
        ),
    ],
)
def test_what_cannot_be_built_is_explained(args, message, config, capsys):
    assert main(["explain", f"--config={config}", *args]) == 1
    assert capsys.readouterr().err.endswith(f"error: {message}\n(W2VLAB_TRACEBACK=1 shows where)\n")


class NaNQuantizer(IdentityQuantizer):
    """Breaks the first step."""

    def forward(self, latents, padding_mask=None):
        return super().forward(latents * math.nan, padding_mask)


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_a_step_that_is_not_finite_is_valid_json(capsys):
    model = build_model(MaskedPrediction, quantizer=NaNQuantizer)
    data = SpeechDataModule("none", batch_seconds=0.3, max_seconds=0.1, min_seconds=0.05)
    trainer = Namespace(
        devices=1,
        accelerator="cpu",
        num_nodes=1,
        max_steps=2,
        accumulate_grad_batches=1,
        precision="32-true",
        strategy="auto",
    )
    explanation = explain(model, data, trainer)
    assert explanation.start.terms["contrastive"] is None
    assert explanation.update.utterances == 3
    json.dumps(explanation.as_dict(), allow_nan=False)
    print_explanation(explanation)
    assert "contrastive not finite" in capsys.readouterr().out


def test_help(capsys):
    assert main(["explain", "--config", "quickstart", "--help"]) == 0
    assert "--no_gradients" in capsys.readouterr().out


PARTS = [(family, cls) for family in ("encoder", "context", "quantizer", "masking", "loss") for cls in classes(family)]


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize(("family", "cls"), PARTS, ids=[cls.__name__ for _, cls in PARTS])
def test_tensors_without_values_have_the_shapes_of_real_ones(family, cls, monkeypatch):
    model = build_model(MaskedPrediction, **{family: factory(cls)})
    real = explain_flow._trace(model.eval(), {}, 2, 420)
    computed = []
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: computed.append(tensor))
    assert trace_flow(model, 2, 420) == real
    assert computed == []


class ReadingQuantizer(IdentityQuantizer):
    """Does what a training step must not: it reads a number back."""

    def forward(self, latents, padding_mask=None):
        return super().forward(latents * (latents.sum().item() > 0), padding_mask)


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_a_part_that_reads_values_is_followed_for_real():
    flow = trace_flow(build_model(MaskedPrediction, quantizer=ReadingQuantizer), 2, 420)
    (step,) = (step for step in flow.steps if step.part == "quantizer")
    assert step.gives["quantized"] == (2, flow.sizes["M"], WIDTH)


class FirstQuarter(NoMasking):
    """Hides the first quarter of the frames, and has half of them predicted."""

    def forward(self, num_frames, generators, num_channels):
        (size,) = set(num_frames)
        frames = (torch.arange(size) < size // 4).expand(len(num_frames), -1)
        targets = torch.arange(size // 8).expand(len(num_frames), -1)
        channels = torch.zeros(len(num_frames), num_channels, dtype=torch.bool)
        channels[:, 0] = True
        return Mask(frames=frames, targets=targets, num_targets=(size // 8,) * len(num_frames), channels=channels)


def test_masks_are_counted():
    statistics = measure_masking(build_model(MaskedPrediction, masking=FirstQuarter), 3, 80)
    assert statistics.hidden == 0.25
    assert statistics.hidden_deviation == 0
    assert statistics.predicted == 0.125
    assert statistics.hidden_channels == pytest.approx(1 / WIDTH)
    assert (statistics.num_utterances, statistics.num_frames) == (3, 80)


def test_masks_differ_from_batch_to_batch():
    statistics = measure_masking(build_model(MaskedPrediction), 2, 80)
    assert statistics.hidden_deviation > 0
    assert measure_masking(build_model(FuturePrediction), 2, 80) is None


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        (MaskedPrediction, partial(ContrastiveLoss, num_negatives=7), math.log(8)),
        (MaskedPrediction, partial(ContrastiveLoss, num_negatives=7, negatives_from="anywhere"), math.log(8)),
        (MaskedPrediction, CodePredictionLoss, math.log(5)),
        (MaskedPrediction, partial(CodePredictionLoss, similarity="cosine"), math.log(5)),
        (MaskedPrediction, partial(CodePredictionLoss, similarity="cosine", unmasked_weight=1.0), math.log(5)),
        (FuturePrediction, partial(FuturePredictionLoss, num_negatives=3), 4 * math.log(2)),
        (FuturePrediction, partial(FuturePredictionLoss, num_negatives=3, objective="infonce"), math.log(4)),
    ],
)
def test_loss_that_knows_nothing(model, loss, expected):
    quantizer = next(cls for cls in classes("quantizer") if cls.__name__ == "GumbelQuantizer")
    built = build_model(model, loss=loss, quantizer=factory(quantizer))
    weights = [parameter.clone() for parameter in built.loss.parameters()]
    assert blind_loss(built) == pytest.approx(expected, abs=1e-5)
    assert all(torch.equal(old, new) for old, new in zip(weights, built.loss.parameters(), strict=True))


def test_loss_that_knows_nothing_of_frames_that_count_less():
    """The mean is over all frames, and those that are not masked count half."""
    loss = partial(CodePredictionLoss, similarity="cosine", unmasked_weight=0.5)
    model = build_model(MaskedPrediction, loss=loss, quantizer=factory(FileTargets))
    assert 0.5 * math.log(5) < blind_loss(model) < math.log(5)


def test_units_of_a_file_are_drawn_for_utterances_that_are_invented(explained):
    """The file need not be there; operations and gradients are counted, too."""
    quantizer = ["--model.quantizer=FileTargets", "--model.quantizer.path=absent", "--model.quantizer.codebook_size=7"]
    loss = ["--model.loss=CodePredictionLoss", "--model.loss.similarity=cosine", "--model.loss.unmasked_weight=0.5"]
    result = explained(*quantizer, *loss, "--model.penalties={}")
    steps = {step["part"]: step for step in result["flow"]["steps"]}
    frames = result["flow"]["sizes"]["T"]
    assert steps["quantizer"]["gives"] == {"quantized": [2, frames, 1], "codes": [2, frames, 1]}
    assert result["codes"]["codebook_size"] == 7
    assert result["update"]["predictions"] == pytest.approx(frames * 5, rel=0.2)
    assert result["cost"]["flops"] > 0
    assert list(result["gradients"]["norms"]) == ["code_prediction"]


def test_a_loss_without_weights_has_no_zero_to_be_at():
    model = build_model(MaskedPrediction)
    model.loss = nn.Identity()
    assert blind_loss(model) is None


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(PolynomialSchedule, warmup_updates=3, total_updates=10),
        partial(CosineSchedule, warmup_updates=3, total_updates=10),
        partial(torch.optim.lr_scheduler.StepLR, step_size=4),
    ],
)
def test_learning_rates_are_those_of_the_run(scheduler):
    model = build_model(MaskedPrediction, optimizer=partial(torch.optim.SGD, lr=0.5), scheduler=scheduler)
    configured = model.configure_optimizers()
    rates = []
    for _ in range(11):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert scheduled_values(model, [0, 5, 10])["learning_rate"] == pytest.approx([rates[0], rates[5], rates[10]])


def test_a_learning_rate_that_follows_the_run_is_not_guessed():
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    model = build_model(MaskedPrediction, optimizer=partial(torch.optim.SGD, lr=0.5), scheduler=plateau)
    assert scheduled_values(model, [0, 5])["learning_rate"] == [0.5, None]


@pytest.mark.parametrize(
    ("devices", "accelerator", "num_nodes", "expected"),
    [
        (2, "cpu", 1, 2),
        ("2", "cpu", 3, 6),
        ([0, 3, 4], "gpu", 1, 3),
        ("0,3", "gpu", 2, 4),
        ("1,", "gpu", 1, 1),
        ("auto", "cpu", 2, 2),
    ],
)
def test_processes(devices, accelerator, num_nodes, expected):
    assert num_processes(Namespace(devices=devices, accelerator=accelerator, num_nodes=num_nodes)) == expected


@pytest.mark.parametrize("devices", ["auto", -1, "-1"])
def test_automatic_devices_are_those_of_this_machine(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert num_processes(Namespace(devices=devices, accelerator="auto", num_nodes=1)) == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert num_processes(Namespace(devices=devices, accelerator="auto", num_nodes=1)) == 1


def test_an_open_end_shows_the_start_alone(explained):
    result = explained("--trainer.max_steps=-1", "--no_gradients")
    assert result["schedule_updates"] == [0]
    assert result["update"]["updates"] is None
    assert result["update"]["may_end_before"] == {}


def test_epochs_and_time_may_end_a_run(explained, capsys):
    result = explained("--trainer.max_steps=-1", "--trainer.max_epochs=3", "--no_gradients")
    assert (result["update"]["updates"], result["cost"]["run_flops"]) == (None, None)
    assert result["update"]["may_end_before"] == {"trainer.max_epochs": "3"}
    result = explained("--trainer.max_steps=100", "--trainer.max_time=00:01:00:00", "--no_gradients")
    assert (result["update"]["updates"], result["update"]["may_end_before"]) == (
        100,
        {"trainer.max_time": "00:01:00:00"},
    )


def test_noise_trains_the_same_parts_as_speech():
    """A row of the matrix on other audio has its zeros in the same places."""
    from w2vlab.callbacks.diagnosis.gradient_matrix import gradient_matrix

    zeros = []
    for seed in (0, 50):
        torch.manual_seed(0)
        model = build_model(MaskedPrediction)
        output = model(audio_batch((420, 420), first=seed), address(2))
        zeros.append(gradient_matrix(model, model.objective_terms(output)).norms == 0)
    assert torch.equal(*zeros)


BASE = Path(__file__).parents[2] / "configs" / "wav2vec2_base.yaml"


def test_the_cost_of_base(capsys, tmp_path, monkeypatch):
    """894 GFLOP for 2 x 10 s are three times the forward pass: 49 in the convolutions and 100 in the Transformer."""
    monkeypatch.chdir(tmp_path)
    shape = ["--data.max_seconds=10", "--data.batch_seconds=20", "--data.micro_batches=6"]
    options = ["--devices=4", "--speed=100", "--trainer.max_steps=90", "--json", "--no_gradients"]
    assert main(["explain", f"--config={BASE}", *shape, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    update, cost = result["update"], result["cost"]
    assert (update["processes"], update["micro_batches"]) == (4, 2)
    assert (update["nominal_seconds"], update["audio_seconds"], update["longest_seconds"]) == (120, 160, 160)
    assert cost["flops"] / 8 == pytest.approx(894e9, rel=0.01)
    assert cost["run_flops"] == 90 * cost["flops"]
    assert cost["memory"]["parameters"] == cost["memory"]["gradients"] == 4 * 95_044_608
    assert cost["memory"]["optimizer"] == 8 * 95_044_608
    assert cost["memory"]["total"] == sum(size for name, size in cost["memory"].items() if name != "total")
    assert cost["device_hours"] == pytest.approx(160 * 90 / 100 / 3600)
    assert cost["hours"] == pytest.approx(cost["device_hours"] / 4)


def one_step(model, counter=None):
    with counter or nullcontext():
        objective_without_values(model.train(), {}, 2, 420).backward()


def test_operations_are_those_of_a_real_step(monkeypatch):
    """As PyTorch counts them: it does not know the groups of a convolution, nor that products of spectra are one."""
    model = build_model(MaskedPrediction, context=factory(TransformerContext, position_groups=1, layer_drop=0.9))
    counted = count_cost(model, 2, 420, micro_batches=3, updates=None, half_precision=False, shards=1)
    model = build_model(MaskedPrediction, context=factory(TransformerContext, position_groups=1))
    monkeypatch.setattr(
        spectra, "grouped_conv1d", lambda inputs, weight, padding: conv1d(inputs, weight, padding=padding)
    )
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        one_step(model, counter)
    assert counted.flops == 3 * counter.get_total_flops() > 0
    assert counted.run_flops is None


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_kept_activations_are_those_of_a_real_step(activation_checkpointing, monkeypatch):
    # A GPU keeps what the positional convolution computes again on a CPU, and explain counts that.
    monkeypatch.setattr(spectra, "computes_eagerly_on_cpu", lambda tensor: False)
    context = factory(TransformerContext, num_layers=4, activation_checkpointing=activation_checkpointing)
    model = build_model(MaskedPrediction, context=context)
    own = {parameter.data_ptr() for parameter in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()  # views of one share it
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Without the backward pass, which recomputes some activations and frees them at once.
        loss = objective_without_values(model.train(), {}, 2, 420)
    assert loss.requires_grad
    counted = explain_cost._activation_bytes(model, 2, 420, half_precision=False)
    assert counted == pytest.approx(sum(size for _, size in kept.values()), rel=1e-3)


def test_what_saves_memory():
    def memory(activation_checkpointing=False, half_precision=False, shards=1):
        context = factory(TransformerContext, num_layers=6, activation_checkpointing=activation_checkpointing)
        model = build_model(MaskedPrediction, context=context)
        return count_cost(model, 2, 420, 1, None, half_precision, shards).memory

    plain = memory()
    assert memory(activation_checkpointing=True).activations < 0.7 * plain.activations
    assert memory(half_precision=True).activations < plain.activations
    assert memory(shards=4).parameters == plain.parameters // 4


def test_the_optimizers_own_memory():
    num_parameters = sum(parameter.numel() for parameter in build_model(MaskedPrediction).parameters())
    for optimizer, numbers in ((torch.optim.AdamW, 2), (partial(torch.optim.SGD, lr=1), 0)):
        assert optimizer_bytes(build_model(MaskedPrediction, optimizer=optimizer)) == 4 * numbers * num_parameters


def test_cost_in_words(config, capsys):
    arguments = ["explain", f"--config={config}", "--no_gradients", "--data.micro_batches=3"]
    assert main([*arguments, "--devices", "2", "--speed", "20", "--trainer.max_steps=36000"]) == 0
    text = capsys.readouterr().out
    for part in (
        "2 x 2 micro-batches (processes x accumulation), 20 s of audio at most in place of 15 s",
        "FLOP an update",
        "memory of a device",
        "10.0 device-hours at 20 s of audio a second and device, 5.00 h on 2",
    ):
        assert part in text
    assert main([*arguments, "--devices", "2", "--speed", "20", "--trainer.max_steps=60"]) == 0
    assert "0.017 device-hours at 20 s of audio a second and device, 30 s on 2" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "give `--speed`" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_the_cost_of_a_part_that_reads_values_is_left_out():
    model = build_model(MaskedPrediction, quantizer=ReadingQuantizer)
    assert count_cost(model, 2, 420, 1, 10, False, 1) == explain_cost.Cost(None, None, None)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--devices=0", "`devices` must be at least 1, but is 0."),
        ("--devices=x", "`devices` must be of type int or null, but is x."),
        ("--speed=-1", "`speed` must be a positive number, but is -1.0."),
        ("--speed=.nan", "`speed` must be a positive number, but is nan."),
    ],
)
def test_invalid_options(option, message, capsys):
    assert main(["explain", option]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
