"""An encoder with its context network can be exported and traced under `plain_kernels()`, for audio of any length."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, fx, nn
from torch.testing import assert_close

from w2vlab.contexts import ConformerContext, ConvContext, TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.functional.kernels import GELU, Dropout, Linear, plain_kernels
from w2vlab.interfaces import ContextNetwork

SMALL = {"model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12, "position_groups": 2}
CONTEXTS = {
    "Transformer": lambda: TransformerContext(6, **SMALL, position_kernel=8),
    "Conformer": lambda: ConformerContext(6, **SMALL, position_kernel=8),
    "convolutions": lambda: ConvContext(6, [(6, 2), (8, 3)]),
}


class Contexts(nn.Module):
    """What a user exports: audio `(B, S)` without padding to contexts `(B, T, D)`."""

    def __init__(self, encoder: ConvFeatureEncoder, context: ContextNetwork) -> None:
        super().__init__()
        self.encoder = encoder
        self.context = context

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = (waveform.shape[1],) * waveform.shape[0]
        contexts: Tensor = self.context(self.context.project(self.encoder(waveform, num_samples)))
        return contexts


@pytest.fixture(params=CONTEXTS)
def model(request: pytest.FixtureRequest) -> Contexts:
    torch.manual_seed(0)
    return Contexts(ConvFeatureEncoder([(6, 10, 5), (6, 3, 2)]), CONTEXTS[request.param]()).eval()


@torch.no_grad()
def test_export(model: Contexts) -> None:
    waveform = torch.randn(2, 800)
    with plain_kernels():
        program = torch.export.export(model, (waveform,), dynamic_shapes={"waveform": {1: torch.export.Dim.AUTO}})
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv1d.default" in operations
    assert not {name for name in operations if name.startswith("w2vlab") or "fft" in name}
    for audio in (waveform, torch.randn(2, 555)):
        assert_close(program.module()(audio), model(audio), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::torch.jit.TracerWarning")
def test_trace(model: Contexts) -> None:
    waveform = torch.randn(2, 800)
    with plain_kernels():
        traced = torch.jit.trace(model, (waveform,))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for audio in (waveform, torch.randn(2, 555)):
        assert_close(loaded(audio), model(audio), rtol=1e-4, atol=1e-5)


def test_what_is_compiled_follows_the_switch() -> None:
    """A compiled module is compiled again when the switch has changed."""
    torch.manual_seed(0)
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> fx.GraphModule:
        graphs.append(graph)
        return graph

    module = nn.Sequential(Linear(6, 8), GELU(recompute=True), Dropout(0.0), Linear(8, 6))
    frames = torch.randn(2, 9, 6)
    expected = module(frames)
    module.compile(backend=backend, fullgraph=True)
    for plain in (False, True):
        with plain_kernels(plain):
            assert_close(module(frames), expected)
    torch._dynamo.reset()
    assert len(graphs) == 2
