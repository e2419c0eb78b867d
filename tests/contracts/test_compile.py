"""What is `Compilable` is one graph, compiled once for batches of all lengths, and computes the same.

Kernels are PyTorch's own here: the tests are of the graphs of Dynamo and AOTAutograd, which need a second and
no C++ compiler. `tests/callbacks/test_compile.py` has Inductor's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.testing import assert_close

from tests.contracts.test_positions import CONTEXTS
from tests.contracts.tiny import address, all_parts, audio_batch, build_model, classes, factory
from w2vlab.callbacks.compile import MAX_VARIANTS, compile_regions, find_regions
from w2vlab.contexts import TransformerContext
from w2vlab.contexts.conformer import ConformerLayer
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.contexts.transformer import TransformerLayer
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.positions import RotaryPositions
from w2vlab.quantizers import GumbelQuantizer

LEFT_AS_THEY_ARE = {
    "LogMelEncoder": "it takes lengths of the host, and is an FFT and a matrix product without gradient",
    "GRUContext": "PyTorch's own kernel runs over all frames, and Dynamo does not look into it",
    "EMAQuantizer": "it keeps what it saw on the module, and draws on the host whom to revive",
    "ResidualQuantizer": "its codebooks are EMAQuantizer's",
    "IdentityQuantizer": "there is nothing to compute",
    "FuturePredictionLoss": "how many steps fit depends on the batch, on the host",
    "CodePredictionLoss": "a matrix product and PyTorch's own cross-entropy",
    "RegressionLoss": "a matrix product and a squared error",
    "FileTargets": "it looks up codes on the host",
    "CodeEmbedding": "it looks up codes on the host, and then their embeddings",
}
"""Parts of w2vlab without a region, and why."""

FAMILIES = ("encoder", "context", "quantizer", "loss")
PARTS = [(family, cls) for family, cls in all_parts() if family in FAMILIES]
VARIANTS = {
    "encoder with everything": (
        "encoder",
        factory(ConvFeatureEncoder, normalize_waveform=True, log_compression=True, skip_connections=True),
    ),
    "encoder normalised over channels": ("encoder", factory(ConvFeatureEncoder, normalization="layer", bias=True)),
    "encoder normalised over time": ("encoder", factory(ConvFeatureEncoder, normalization="group")),
    "negatives from other utterances": ("loss", factory(ContrastiveLoss, num_other_negatives=3)),
    "negatives from anywhere": ("loss", factory(ContrastiveLoss, negatives_from="anywhere", num_codebook_negatives=2)),
    **{
        f"{context.__name__} with {positions.__name__}": (
            "context",
            factory(context, attention_positions=factory(positions), position_layers=0),
        )
        for context in CONTEXTS
        for positions in classes("positions")
    },
    "frames turned before their projection": (
        "context",
        factory(TransformerContext, attention_positions=factory(RotaryPositions, before_projection=True)),
    ),
}

WARM_UP = ((420, 360), (400, 400, 400))
"""A batch with padding and one without."""

LATER = ((500, 300, 350), (330, 330), (610, 410, 500, 300, 444), (700,) * 4)


class Kernels:
    """A compiler that counts graphs and leaves kernels PyTorch's own."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.num_graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    """One for all tests, so that several tests share compiled parts."""
    with torch._dynamo.config.patch(recompile_limit=MAX_VARIANTS):
        yield Kernels()
    torch._dynamo.reset()


def model_with(family: str, part: Any) -> PretrainingModule:
    torch.manual_seed(0)
    cls: type[PretrainingModule] = MaskedPrediction
    parts = {family: part}
    if family == "loss":
        parts["quantizer"] = factory(GumbelQuantizer)
    return build_model(cls, **parts)


def drop_layers(*models: PretrainingModule) -> None:
    """From now on every update leaves out other layers."""
    for model in models:
        for module in model.modules():
            if isinstance(module, LayerDropStack):
                module.layer_drop = 0.5


def step(model: PretrainingModule, lengths: tuple[int, ...], update: int) -> dict[str, Tensor]:
    """The terms of an update and all its gradients; the temperature and the layers that are dropped are its own."""
    model.set_update(50_000 * update)
    torch.manual_seed(update)
    terms = model.objective_terms(model(audio_batch(lengths), address(len(lengths), update)))
    model.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: term.detach() for name, term in terms.items()} | gradients


def assert_same(compiled: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert set(compiled) == set(plain)
    for name, expected in plain.items():
        scale = float(expected.abs().max())
        assert_close(compiled[name], expected, rtol=1e-4, atol=1e-5 * scale, msg=lambda text, n=name: f"{n}: {text}")


def assert_compiled_once(model: PretrainingModule, family: str, plain: PretrainingModule, kernels: Kernels) -> None:
    regions = find_regions(model, [family])[family]
    for region in regions:
        region.compile(backend=kernels, dynamic=True, fullgraph=True)
    names = list(model.state_dict())
    for update, lengths in enumerate((*WARM_UP, *LATER)):
        before = kernels.num_graphs
        if update == len(WARM_UP):
            drop_layers(model, plain)
        assert_same(step(model, lengths, update), step(plain, lengths, update))
        assert update < len(WARM_UP) or kernels.num_graphs == before, f"recompiled for {lengths}"
    assert list(model.state_dict()) == names == list(plain.state_dict())
    assert all(region._compiled_call_impl is not None for region in regions)


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect", "ignore:`parts` has no effect")
@pytest.mark.parametrize(("family", "cls"), PARTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_part_is_compiled_once_and_computes_the_same(family: str, cls: type, kernels: Kernels) -> None:
    part = factory(cls)
    model = model_with(family, part)
    if not find_regions(model, [family]):
        assert not cls.__module__.startswith("w2vlab.") or cls.__name__ in LEFT_AS_THEY_ARE
        pytest.skip(LEFT_AS_THEY_ARE.get(cls.__name__, "it does not say that it can be compiled"))
    assert cls.__name__ not in LEFT_AS_THEY_ARE
    assert_compiled_once(model, family, model_with(family, part), kernels)
    assert kernels.num_graphs > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_compiled_once_and_computes_the_same(name: str, kernels: Kernels) -> None:
    family, part = VARIANTS[name]
    assert_compiled_once(model_with(family, part), family, model_with(family, part), kernels)


def test_evaluation_and_bfloat16_are_variants_and_no_more(kernels: Kernels) -> None:
    """Each of them is compiled at its first batch, and never again."""
    torch.manual_seed(0)
    models = [build_model(MaskedPrediction) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for regions in find_regions(models[0], ["encoder", "quantizer"]).values():  # which have float32 islands
        for region in regions:
            region.compile(backend=kernels, dynamic=True, fullgraph=True)
    for training, enabled in ((False, False), (True, True)):
        for number, lengths in enumerate((*WARM_UP, *LATER)):
            before = kernels.num_graphs
            results = []
            for model in models:
                model.train(training)
                torch.manual_seed(number)
                with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.set_grad_enabled(training):
                    results.append(model(audio_batch(lengths), address(len(lengths), number)))
            # Fused operations may round differently in half precision. If two codes are nearly equally likely, another
            # one may then be chosen, which changes the loss.
            room = {"rtol": 5e-2, "atol": 5e-2} if enabled else {"rtol": 1e-4, "atol": 1e-5}
            assert_close(results[0].context, results[1].context, **room)
            share = 0.2 if enabled else 1e-4
            assert_close(results[0].prediction.total, results[1].prediction.total, rtol=share, atol=1e-5)
            assert number < len(WARM_UP) or kernels.num_graphs == before


LAYERS = {
    "post-norm": partial(TransformerLayer, 8, 12, 2, 0.1, 0.1, 0.1, False),
    "pre-norm": partial(TransformerLayer, 8, 12, 2, 0.1, 0.1, 0.1, True),
    **{
        f"{name} with {positions.__name__}": partial(layer, positions=positions)
        for name, layer in (
            ("transformer", partial(TransformerLayer, 8, 12, 2, 0.1, 0.1, 0.1, False)),
            ("conformer", partial(ConformerLayer, 8, 12, 2, 3, 0.1, 0.1, 0.1)),
        )
        for positions in classes("positions")
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_dropouts_in_bfloat16_is_one_graph_of_all_lengths(name: str, kernels: Kernels) -> None:
    """What a kernel does for eager layers, such as looking up what it kept, must not break the graph."""
    torch.manual_seed(0)
    layer = LAYERS[name]().train()
    layer.compile(backend=kernels, dynamic=True, fullgraph=True)
    for number, lengths in enumerate((*WARM_UP, *LATER)):
        before = kernels.num_graphs
        frames = torch.randn(len(lengths), max(lengths) // 10, 8, requires_grad=True)
        padding_mask = make_padding_mask([length // 10 for length in lengths], frames.shape[1], frames.device)
        with torch.autocast("cpu", torch.bfloat16):
            layer(frames, padding_mask).square().sum().backward()
        assert frames.grad.isfinite().all()
        assert number < len(WARM_UP) or kernels.num_graphs == before, f"recompiled for {lengths}"


def test_regions_are_whole_and_the_outermost() -> None:
    """No region is inside of another one, and each is found once."""
    model = build_model(MaskedPrediction)
    regions = find_regions(model)
    assert {name: len(found) for name, found in regions.items()} == {
        "encoder": 1,
        "quantizer": 1,
        "context": 2,  # its layers
        "loss": 1,
    }
    modules = [region for found in regions.values() for region in found]
    inside = {id(child) for region in modules for child in region.modules() if child is not region}
    assert not inside & {id(region) for region in modules}
    assert len({id(region) for region in modules}) == len(modules)


def test_a_future_prediction_is_compiled_too(kernels: Kernels) -> None:
    torch.manual_seed(0)
    model = build_model(FuturePrediction, quantizer=factory(GumbelQuantizer))
    torch.manual_seed(0)
    plain = build_model(FuturePrediction, quantizer=factory(GumbelQuantizer))
    regions = compile_regions(model, kernels)
    assert set(regions) == {"encoder", "quantizer", "context"}
    for update, lengths in enumerate((*WARM_UP, *LATER)):
        before = kernels.num_graphs
        assert_same(step(model, lengths, update), step(plain, lengths, update))
        assert update < len(WARM_UP) or kernels.num_graphs == before
