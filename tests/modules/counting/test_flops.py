"""Operations of a micro-batch of any size follow from a few sizes, counted on a copy of the model without values."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.tiny import WIDTH, audio_batch, build_model, classes, factory
from w2vlab.contexts import ConformerContext, ConvContext, GRUContext, TransformerContext
from w2vlab.functional.kernels import grouped_conv1d
from w2vlab.losses import ContrastiveLoss, DiversityPenalty, FuturePredictionLoss
from w2vlab.masking import NoMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules.counting.flops import (
    _FORMULAS,
    StepFlops,
    _as_defined,
    _recurrence_at_once,
    count_flops,
    fit_flops,
    size_terms,
)
from w2vlab.modules.counting.without_values import Overridden, _fused_attention, all_layers, skeleton
from w2vlab.positions import RelativeKeyPositions, RelativePositions, RotaryPositions
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer
from w2vlab.types import AudioBatch, Mask, RandomAddress


class EveryOther(NoMasking):
    """Hides every other frame: how many does not depend on a draw."""

    def forward(self, num_frames: Any, generators: Any, num_channels: int) -> Mask:
        (length,) = set(num_frames)
        frames = (torch.arange(length) % 2 == 0).expand(len(num_frames), -1)
        targets = torch.arange(0, length, 2).expand(len(num_frames), -1)
        return Mask(frames=frames, targets=targets, num_targets=(targets.shape[1],) * len(num_frames))


def counted_in_a_real_step(model: PretrainingModule, batch_size: int, num_samples: int) -> int:
    """Operations of a step with values, which for tiny sizes is computed faster than one without."""
    batch = silence(batch_size, num_samples)
    # As the operations are defined: not as a CPU computes the convolution of the positions, nor dropout of attention.
    others = {grouped_conv1d: _as_defined, F.scaled_dot_product_attention: _fused_attention}
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with all_layers(model, checkpointing=False), Overridden(others), counter:
        terms = model.objective_terms(model(batch, RandomAddress(seed=model.seed, update=0, ids=batch.ids)))
        torch.stack(list(terms.values())).sum().backward()
    return int(counter.get_total_flops())


def silence(batch_size: int, num_samples: int) -> AudioBatch:
    ids = tuple(f"utterance-{number}" for number in range(batch_size))
    return AudioBatch(waveform=torch.zeros(batch_size, num_samples), num_samples=(num_samples,) * batch_size, ids=ids)


MODELS = {
    "transformer": partial(build_model, MaskedPrediction, context=factory(TransformerContext), masking=EveryOther),
    "conformer": partial(build_model, MaskedPrediction, context=factory(ConformerContext), masking=EveryOther),
    **{
        f"conformer, {positions.__name__}": partial(
            build_model,
            MaskedPrediction,
            context=factory(ConformerContext, attention_positions=factory(positions), position_layers=0),
            masking=EveryOther,
        )
        for positions in classes("positions")
    },
    "gru": partial(build_model, MaskedPrediction, context=factory(GRUContext), masking=EveryOther),
    "convolutions": partial(build_model, FuturePrediction, context=factory(ConvContext)),
    "steps ahead": partial(build_model, FuturePrediction, loss=factory(FuturePredictionLoss, num_steps=12)),
    "negatives of the whole batch": partial(
        build_model, MaskedPrediction, loss=factory(ContrastiveLoss, num_other_negatives=4), masking=EveryOther
    ),
    "frozen encoder": partial(build_model, MaskedPrediction, target_gradient=False, masking=EveryOther),
}


def model_of(name: str) -> PretrainingModule:
    model: PretrainingModule = MODELS[name]()
    if name == "frozen encoder":
        model.encoder.requires_grad_(False)
    return model


@cache
def fitted_to(name: str) -> StepFlops:
    """What follows from the sizes that are counted, which takes seconds."""
    return fit_flops(skeleton(model_of(name)))


@pytest.mark.parametrize("name", MODELS)
def test_operations_of_other_sizes(name: str) -> None:
    """A frame of the tiny encoder is 10 samples; these are none of the sizes that are counted."""
    model, fitted = model_of(name), fitted_to(name)
    for size in ((1, 907), (5, 2200), (20, 700)):
        counted = counted_in_a_real_step(model, *size)
        assert fitted.of(size_terms(model, silence(*size))) == pytest.approx(counted, rel=0.02)


def test_without_values_the_operations_are_those_of_a_real_step() -> None:
    model = MODELS["transformer"]()
    assert count_flops(skeleton(model), 2, 907) == counted_in_a_real_step(model, 2, 907)


def test_masks_that_are_drawn_at_the_widths_of_base() -> None:
    """Two of its layers; utterances of 2 s, and as many of the longest as are in a micro-batch."""
    context = partial(TransformerContext, num_layers=2, layer_drop=0.0)
    with torch.device("meta"):
        model = MaskedPrediction(context=context)
    fitted = fit_flops(skeleton(model))
    for size in ((43, 32_000), (5, 250_000)):
        counted = count_flops(skeleton(model), *size)
        assert fitted.of(size_terms(model, silence(*size))) == pytest.approx(counted, rel=0.01)


def test_positions_count_as_the_convolution_that_they_are() -> None:
    """Three passes, a product and a sum for each frame, tap and pair of channels of a group."""
    narrow, wide = (
        count_flops(
            skeleton(build_model(MaskedPrediction, context=factory(TransformerContext, position_kernel=kernel))),
            2,
            2000,
        )
        for kernel in (9, 19)
    )
    model = build_model(MaskedPrediction, context=factory(TransformerContext))
    weight = model.context.positions.conv.weight  # (D, D / groups, kernel)
    frames = 2 * model.encoder.num_frames(2000)
    assert wide - narrow == 3 * 2 * frames * weight[..., 0].numel() * 10


FRAMES = 19


def of_attention(**arguments: Any) -> int:
    """Operations of the scores and the mixing of all pairs, and of what positions add."""
    model = build_model(MaskedPrediction, context=factory(TransformerContext, num_layers=1, **arguments))
    return count_flops(skeleton(model), 3, model.encoder.receptive_field + (FRAMES - 1) * model.encoder.stride)


def test_positions_of_attention_count_as_their_products() -> None:
    """Three passes, a product and a sum each; turns and additions are none. Tiny: 3 utterances, 8 channels, 2 heads."""
    plain = of_attention()
    pairs = 3 * 2 * FRAMES * WIDTH  # of each distance: utterances, a multiply-add, queries, channels of all heads
    assert of_attention(attention_positions=RotaryPositions) == plain
    left_right = partial(RelativeKeyPositions, left=4, right=2)
    assert of_attention(attention_positions=left_right) - plain == 3 * pairs * 7
    # The projection of sinusoids has two passes, because the sinusoids have no gradient.
    projection = 2 * (2 * FRAMES) * WIDTH**2
    assert of_attention(attention_positions=RelativePositions) - plain == 3 * pairs * 2 * FRAMES + 2 * projection
    before = partial(RotaryPositions, before_projection=True)
    assert of_attention(attention_positions=before) == plain


def test_sums_of_terms_are_sums_of_operations() -> None:
    name = "negatives of the whole batch"
    model, fitted = model_of(name), fitted_to(name)
    terms = [size_terms(model, silence(*size)) for size in ((1, 907), (3, 1500))]
    assert fitted.of(terms[0] + terms[1]) == pytest.approx(fitted.of(terms[0]) + fitted.of(terms[1]))


def test_padding_counts() -> None:
    model = build_model(MaskedPrediction)
    assert size_terms(model, audio_batch((500, 300))).tolist() == size_terms(model, silence(2, 500)).tolist()


@pytest.fixture(scope="module")
def leaving_out() -> tuple[PretrainingModule, StepFlops]:
    """A model with LayerDrop, and the operations of a copy of it."""
    context = factory(TransformerContext, num_layers=4, layer_drop=0.5)
    model = build_model(MaskedPrediction, context=context, masking=EveryOther)
    model.set_update(3)
    return model, fit_flops(skeleton(model))


@pytest.mark.parametrize("dropped", [(True, False, False, True), (False,) * 4, (True,) * 4])
def test_layers_that_an_update_leaves_out(
    dropped: tuple[bool, ...], leaving_out: tuple[PretrainingModule, StepFlops]
) -> None:
    """Whatever was drawn when the model was copied."""
    model, fitted = leaving_out
    model.train().context.layers.dropped = dropped
    smaller = build_model(
        MaskedPrediction, context=factory(TransformerContext, num_layers=4 - sum(dropped)), masking=EveryOther
    )
    counted = counted_in_a_real_step(smaller, 3, 1500)
    assert fitted.of(size_terms(model, silence(3, 1500))) == pytest.approx(counted, rel=0.01)
    # In evaluation nothing is left out.
    whole = fitted.of(size_terms(model.eval(), silence(3, 1500)))
    assert (whole == fitted.of(size_terms(model.train(), silence(3, 1500)))) == (not any(dropped))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True, "bias": False}])
def test_a_recurrence_at_once_has_the_products_of_one_frame_by_frame(options: dict[str, Any]) -> None:
    gru = nn.GRU(12, 7, batch_first=True, **options)
    counts = []
    for mode in (None, Overridden({torch.gru: _recurrence_at_once})):
        frames = torch.randn(3, 50, 12, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            if mode is None:
                output = gru(frames)[0]
            else:
                with mode:
                    output = gru(frames)[0]
            output.sum().backward()
        counts.append((counter.get_total_flops(), output.shape))
    (frame_by_frame, shape), (at_once, same_shape) = counts
    assert shape == same_shape
    # The state before the first frame needs no gradient: B x H from B x 3 H, for each layer and direction.
    recurrences = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    assert at_once - frame_by_frame == recurrences * 2 * 3 * 7 * 21


def test_a_skeleton_has_no_memory_and_leaves_the_model_alone() -> None:
    """Also a model whose quantizer keeps what it saw, and whose parts are compiled."""
    torch.manual_seed(0)
    model: PretrainingModule = build_model(
        MaskedPrediction, quantizer=factory(EMAQuantizer), context=factory(TransformerContext, layer_drop=0.5)
    ).double()
    model.context.compile()
    model.encoder.requires_grad_(False)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, dropped = torch.random.get_rng_state(), model.context.layers.dropped
    copied = skeleton(model)
    assert all(value.is_meta for value in copied.state_dict().values())
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert [parameter.requires_grad for parameter in copied.parameters()] == trained
    assert fit_flops(copied).coefficients.any()
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module.training for module in model.modules())
    assert model.context.layers.dropped == dropped
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part._counts for part in model.modules() if hasattr(part, "_counts")] == [None]


def test_shared_parameters_stay_shared() -> None:
    model = build_model(MaskedPrediction, quantizer=factory(GumbelQuantizer), penalties={"diversity": DiversityPenalty})
    model.quantizer.again = model.quantizer.scores
    copied = skeleton(model)
    assert copied.quantizer.again is copied.quantizer.scores
    assert len(list(copied.parameters())) == len(list(model.parameters()))
