"""What encoders, context networks and quantizers promise: shapes, gradients, padding, repeatability, precision."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contracts.tiny import (
    WIDTH,
    OnlyFloat64,
    assert_gradients_finite,
    audio_batch,
    build,
    classes,
    padding_mask,
)
from w2vlab.encoders.pieces import EncodesInPieces
from w2vlab.interfaces import LearnsByStatistics, OfUtterances
from w2vlab.types import QuantizerOutput

# `test_of_utterances.py` has those that read a file, and neither encode audio nor quantize latents.
ENCODERS, QUANTIZERS = (
    [cls for cls in classes(family) if not issubclass(cls, OfUtterances)] for family in ("encoder", "quantizer")
)
CONTEXTS = classes("context")
LENGTHS = (11, 6, 9)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

encoders = pytest.mark.parametrize("cls", ENCODERS, ids=lambda cls: cls.__name__)
contexts = pytest.mark.parametrize("cls", CONTEXTS, ids=lambda cls: cls.__name__)
quantizers = pytest.mark.parametrize("cls", QUANTIZERS, ids=lambda cls: cls.__name__)
networks = pytest.mark.parametrize("cls", [*ENCODERS, *CONTEXTS, *QUANTIZERS], ids=lambda cls: cls.__name__)


def frames_of(lengths: tuple[int, ...]) -> Tensor:
    """Latents with garbage in the padding, which nothing may look at."""
    torch.manual_seed(1)
    frames = torch.randn(len(lengths), max(lengths), WIDTH)
    return torch.where(padding_mask(lengths)[..., None], 100 * frames, frames)


def run(module: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """Runs a network on a padded batch; returns its input and every floating-point tensor that it gives."""
    if type(module) in ENCODERS:
        batch = audio_batch((160, 90))
        waveform = batch.waveform.to(dtype).requires_grad_()
        return waveform, [module(waveform, batch.num_samples)]
    latents = frames_of(LENGTHS).to(dtype).requires_grad_()
    mask = padding_mask(LENGTHS)
    if type(module) in CONTEXTS:
        return latents, [module(module.project(latents), mask)]
    output = module(latents, mask)
    tensors = [output.quantized, *output.losses.values()]
    return latents, tensors if output.probabilities is None else [*tensors, output.probabilities]


@encoders
def test_encoder_gives_as_many_latents_as_it_says(cls: type) -> None:
    encoder = build(cls)
    first = encoder.receptive_field
    assert encoder.num_frames(first - 1) == 0
    assert encoder.num_frames(first) == 1
    assert encoder.num_frames(first + encoder.stride - 1) == 1
    assert encoder.num_frames(first + encoder.stride) == 2
    for samples in range(first, first + 2 * encoder.stride + 1):
        latents = encoder(torch.randn(2, samples), (samples, samples))
        assert latents.shape == (2, encoder.num_frames(samples), encoder.output_dim)


@encoders
def test_encoder_sees_its_receptive_field_and_no_more(cls: type) -> None:
    torch.manual_seed(0)
    encoder = build(cls).double().eval()
    samples = encoder.receptive_field + 99 * encoder.stride
    waveform = torch.randn(1, samples, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.grad(encoder(waveform, (samples,))[0, 50].square().sum(), waveform)[0][0]
    seen = torch.zeros(samples, dtype=torch.bool)
    seen[50 * encoder.stride : 50 * encoder.stride + encoder.receptive_field] = True
    # A norm over time passes a little of the gradient to all frames, so that its share is compared.
    assert jacobian[seen].abs().mean() > 5 * jacobian[~seen].abs().mean()


@encoders
def test_encoder_ignores_padding(cls: type) -> None:
    encoder = build(cls).eval()
    batch = audio_batch((160, 90, 35, encoder.receptive_field + encoder.stride))
    together = encoder(batch.waveform, batch.num_samples)
    for row, samples in enumerate(batch.num_samples):
        alone = encoder(batch.waveform[row : row + 1, :samples], (samples,))
        assert_close(together[row, : encoder.num_frames(samples)], alone[0], **TOLERANCE)


@contexts
def test_context_shapes(cls: type) -> None:
    network = build(cls)
    frames = network.project(frames_of(LENGTHS))
    assert frames.shape == (len(LENGTHS), max(LENGTHS), network.model_dim)
    assert network(frames, padding_mask(LENGTHS)).shape == (len(LENGTHS), max(LENGTHS), network.output_dim)


@contexts
def test_context_ignores_padding(cls: type) -> None:
    network = build(cls).eval()
    latents = frames_of(LENGTHS)
    together = network(network.project(latents), padding_mask(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = network(network.project(latents[row : row + 1, :length]))
        assert_close(together[row, :length], alone[0], **TOLERANCE)


@contexts
def test_context_depends_on_more_than_its_own_frame(cls: type) -> None:
    network = build(cls).eval()
    latents = frames_of((9,)).requires_grad_()
    gradient = torch.autograd.grad(network(network.project(latents))[0, 5].square().sum(), latents)[0][0]
    assert gradient[4].abs().sum() > 0
    assert gradient[5].abs().sum() > 0


@quantizers
def test_quantizer_shapes(cls: type) -> None:
    quantizer = build(cls)
    groups, size = quantizer.num_codebooks, quantizer.codebook_size
    output: QuantizerOutput = quantizer(frames_of(LENGTHS), padding_mask(LENGTHS))
    shape = len(LENGTHS), max(LENGTHS)
    assert output.quantized.shape == (*shape, quantizer.output_dim)
    assert output.codes.shape == (*shape, groups)
    assert output.codes.dtype == torch.int64
    assert ((output.codes >= 0) & (output.codes < max(size, 1))).all()
    if output.probabilities is not None:
        assert output.probabilities.shape == (*shape, groups, size)
        assert_close(output.probabilities.sum(-1), torch.ones(*shape, groups))
    assert all(loss.shape == shape for loss in output.losses.values())


@quantizers
def test_quantizer_ignores_padding(cls: type) -> None:
    quantizer = build(cls).eval()
    latents = frames_of(LENGTHS)
    together = quantizer(latents, padding_mask(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = quantizer(latents[row : row + 1, :length])
        assert_close(together.quantized[row, :length], alone.quantized[0], **TOLERANCE)
        assert torch.equal(together.codes[row, :length], alone.codes[0])
        for name, loss in together.losses.items():
            assert_close(loss[row, :length], alone.losses[name][0], **TOLERANCE)


@quantizers
def test_codes_stand_for_the_quantized_vectors(cls: type) -> None:
    quantizer = build(cls).eval()
    output = quantizer(frames_of(LENGTHS))
    if quantizer.num_codebooks:
        assert_close(quantizer.lookup(output.codes), output.quantized)
        assert_close(quantizer.lookup(output.codes[0, 0]), output.quantized[0, 0])
        assert torch.equal(output.assignment, output.codes)
    else:
        with pytest.raises(RuntimeError, match="no codebook"):
            quantizer.lookup(output.codes)


@quantizers
def test_every_codebook_has_a_say_in_the_vector(cls: type) -> None:
    quantizer = build(cls).eval()
    codes = torch.zeros(1, quantizer.num_codebooks, dtype=torch.int64)
    for codebook in range(quantizer.num_codebooks):
        changed = codes.clone()
        changed[0, codebook] = 1
        assert (quantizer.lookup(codes) != quantizer.lookup(changed)).any()


@quantizers
def test_codes_of_any_leading_shape_can_be_looked_up(cls: type) -> None:
    quantizer = build(cls).eval()
    if not quantizer.num_codebooks:
        return
    codes = torch.randint(quantizer.codebook_size, (2, 3, 4, quantizer.num_codebooks))
    vectors = quantizer.lookup(codes)
    assert vectors.shape == (2, 3, 4, quantizer.output_dim)
    assert_close(quantizer.lookup(codes[1, 2, 3]), vectors[1, 2, 3])


@networks
def test_gradient_reaches_the_input_and_every_parameter(cls: type) -> None:
    torch.manual_seed(0)
    module = build(cls).train()
    values, outputs = run(module)
    torch.manual_seed(1)
    valid = ~padding_mask(LENGTHS) if cls not in ENCODERS else torch.ones(outputs[0].shape[:2], dtype=torch.bool)
    sum((torch.randn_like(output[valid]) * output[valid]).sum() for output in outputs).backward()
    assert_gradients_finite(module, values)


@networks
def test_seed_decides_everything(cls: type) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(run(build(cls).train())[1])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@networks
def test_evaluation_is_repeatable(cls: type) -> None:
    module = build(cls).eval()
    assert all(torch.equal(first, second) for first, second in zip(run(module)[1], run(module)[1], strict=True))


@networks
def test_state_dict_holds_all_that_was_learned(cls: type) -> None:
    torch.manual_seed(0)
    module = build(cls).eval()
    torch.manual_seed(1)
    other = build(cls).eval()
    other.load_state_dict(module.state_dict(), strict=True)
    assert all(torch.equal(first, second) for first, second in zip(run(module)[1], run(other)[1], strict=True))


@networks
def test_runs_in_bfloat16(cls: type) -> None:
    module = build(cls).train()
    with torch.autocast("cpu", torch.bfloat16):
        values, outputs = run(module)
    for output in outputs:
        assert output.isfinite().all()
    sum(output.float().sum() for output in outputs).backward()
    assert_gradients_finite(module)
    assert values.grad is not None
    assert values.grad.isfinite().all()


@quantizers
def test_statistics_and_losses_of_a_quantizer_are_float32_in_bfloat16(cls: type) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = build(cls)(frames_of(LENGTHS).bfloat16())
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    assert output.probabilities is None or output.probabilities.dtype == torch.float32


@networks
def test_float64_stays_float64(cls: type) -> None:
    module = build(cls).double().train()
    with OnlyFloat64():
        outputs = run(module, torch.float64)[1]
        sum(output.sum() for output in outputs).backward()
    assert all(output.dtype == torch.float64 for output in outputs)


def learners(module: nn.Module) -> list[LearnsByStatistics]:
    return [part for part in module.modules() if isinstance(part, LearnsByStatistics)]


learn_by_statistics = pytest.mark.parametrize(
    "cls", [cls for cls in QUANTIZERS if learners(build(cls))], ids=lambda cls: cls.__name__
)


def finish_update(module: nn.Module) -> None:
    for part in learners(module):
        part.finish_update(0)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> bool:
    after = module.state_dict()
    assert set(after) == set(before)
    return any(not torch.equal(after[name], value) for name, value in before.items())


@learn_by_statistics
def test_statistics_change_nothing_before_the_end_of_the_update(cls: type) -> None:
    module = build(cls).train()
    before, buffers = state_of(module), {name for name, _ in module.named_buffers()}
    for _ in range(2):
        run(module)
    assert not changed(module, before)
    assert {name for name, _ in module.named_buffers()} == buffers, "DDP would overwrite the collected statistics"
    finish_update(module)
    assert changed(module, before)
    before = state_of(module)
    finish_update(module)
    assert not changed(module, before), "nothing was collected since the last call"


@learn_by_statistics
def test_an_update_that_is_forgotten_or_skipped_teaches_nothing(cls: type) -> None:
    module = build(cls).train()
    before = state_of(module)
    run(module)
    for part in learners(module):
        part.forget_update()
    finish_update(module)
    assert not changed(module, before)
    run(module)
    for part in learners(module):
        part.finish_update(0, skipped=torch.tensor(True))
    finish_update(module)
    assert not changed(module, before), "nothing must be left for the next update either"
    run(module)
    for part in learners(module):
        part.finish_update(0, skipped=torch.tensor(False))
    assert changed(module, before)


@learn_by_statistics
def test_nothing_is_learned_from_statistics_in_evaluation(cls: type) -> None:
    module = build(cls).train()
    run(module)
    finish_update(module)
    before = state_of(module)
    run(module.eval())
    finish_update(module.train())
    assert not changed(module, before)


@learn_by_statistics
def test_what_statistics_teach_does_not_depend_on_the_layout_or_on_padding(cls: type) -> None:
    """One padded batch, and its utterances one by one."""
    torch.manual_seed(0)
    whole = build(cls).double().train()
    cut = deepcopy(whole)
    latents = frames_of(LENGTHS).double()
    before = state_of(whole)
    for _ in range(3):
        whole(latents, padding_mask(LENGTHS))
        for row, length in enumerate(LENGTHS):
            cut(latents[row : row + 1, :length], None)
        finish_update(whole)
        finish_update(cut)
    assert changed(whole, before)
    for name, expected in whole.state_dict().items():
        assert_close(cut.state_dict()[name], expected, rtol=1e-10, atol=1e-12)


@quantizers
def test_independent_frames_are_quantized_alike_in_pieces(cls: type) -> None:
    """A quantizer that does not say so may depend on other frames, and is never given a piece."""
    quantizer = build(cls).eval()
    latents = frames_of((13,))
    whole, parts = quantizer(latents), [quantizer(piece) for piece in latents.split(4, dim=1)]
    same = torch.equal(torch.cat([part.assignment for part in parts], dim=1), whole.assignment)
    same &= torch.allclose(torch.cat([part.quantized for part in parts], dim=1), whole.quantized, atol=1e-6)
    assert same or not cls.frames_are_independent


@encoders
def test_pieces_are_the_latents_of_the_whole(cls: type) -> None:
    encoder = build(cls).eval()
    if not isinstance(encoder, EncodesInPieces):
        pytest.skip("encodes utterances whole")
    waveform = audio_batch((160, 160)).waveform
    with torch.inference_mode():
        pieces = list(encoder.pieces(waveform, 4))
        assert len(pieces) > 1
        assert_close(torch.cat(pieces, dim=1), encoder(waveform, (160, 160)), **TOLERANCE)
