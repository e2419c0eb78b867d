"""CompileModel in real runs: the same losses and checkpoints, and warnings if something does not work."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import address, build, build_model, factory
from tests.helpers.compiling import own_kernels
from tests.modules.training import (
    Record,
    constant_rate,
    fit,
    make_batches,
    parameters_of,
    plain_sgd,
    with_updates,
)
from tests.processes.isolated import in_a_process_of_its_own
from w2vlab.callbacks import CompileModel, GradientFlow
from w2vlab.callbacks import compile as compile_module
from w2vlab.contexts import GRUContext, TransformerContext
from w2vlab.encoders import LogMelEncoder
from w2vlab.interfaces import Compilable
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, IdentityQuantizer
from w2vlab.types import QuantizerOutput

LENGTHS = (400, 310)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to compile on a CPU")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Resets PyTorch's settings before a test."""
    dynamo, functorch = torch._dynamo.config, torch._functorch.config
    with dynamo.patch(recompile_limit=8, optimize_ddp=True), functorch.patch(donated_buffer=True):
        yield


@pytest.fixture(scope="module")
def compiler() -> Iterator[compile_module.InductorWithFallback]:
    """One for all tests, so that they share the compiled code."""
    yield compile_module.InductorWithFallback()
    torch._dynamo.reset()


@pytest.fixture
def compiling(compiler: compile_module.InductorWithFallback) -> Iterator[Callable[..., CompileModel]]:
    """Makes the callback, with eager kernels of PyTorch."""

    def make(**options: Any) -> CompileModel:
        callback = CompileModel(**options)
        callback.compiler = compiler
        return callback

    with own_kernels():
        yield make


def model_of(**options: Any) -> PretrainingModule:
    """Gumbel noise and LayerDrop are on."""
    torch.manual_seed(0)
    return build_model(
        MaskedPrediction,
        quantizer=factory(GumbelQuantizer),
        context=factory(TransformerContext, layer_drop=0.3, **options),
        optimizer=plain_sgd,
        scheduler=constant_rate,
    )


def run(updates: int = 4, accumulate: int = 2, callbacks: Any = (), model: Any = None, **options: Any) -> Record:
    batches = with_updates(make_batches(updates, accumulate, 3, samples=LENGTHS), accumulate)
    return fit(model or model_of(), batches, updates, accumulate, callbacks=callbacks, **options)


@needs_compiler
@in_a_process_of_its_own
def test_inductor_gives_the_same_losses_and_gradients() -> None:
    """In evaluation mode, without noise on the device."""
    torch.manual_seed(0)
    models = [build_model(MaskedPrediction, context=factory(TransformerContext, num_layers=1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    compiler = compile_module.InductorWithFallback()
    compile_module.compile_regions(models[0], compiler)
    results = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="CompileModel has no effect")
        for model in models:
            model.eval()
            (batch,) = make_batches(1, 1, 3, samples=LENGTHS)
            terms = model.objective_terms(model(batch, address(3)))
            torch.stack(list(terms.values())).sum().backward()
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            results.append({**terms, **{name: value for name, value in gradients.items() if value is not None}})
    assert compiler.num_graphs == 4  # the encoder's blocks, quantizer, a layer, scores
    compiled, plain = results
    assert set(compiled) == set(plain)
    for name, expected in plain.items():
        room = 1e-5 * float(expected.detach().abs().max())
        assert_close(compiled[name], expected, rtol=1e-5, atol=room, msg=lambda text, n=name: f"{n}: {text}")


@needs_compiler
@in_a_process_of_its_own
def test_noise_of_global_batch_statistics_is_that_of_the_update() -> None:
    """Global-batch statistics are computed without gradient, by a separate compilation, and must be the same."""
    seen: list[tuple[bool, Tensor]] = []
    model = model_of()
    model.quantizer.register_forward_hook(
        lambda module, inputs, output: seen.append((torch.is_grad_enabled(), output.codes.clone()))
    )
    run(updates=2, model=model, callbacks=[CompileModel(parts=["quantizer"])])
    ahead = [codes for gradient, codes in seen if not gradient]
    trained = [codes for gradient, codes in seen if gradient]
    assert len(ahead) == len(trained) == 4
    assert all(torch.equal(first, second) for first, second in zip(ahead, trained, strict=True))
    assert not torch.equal(trained[0], trained[1])


def test_a_run_is_the_same_with_and_without(compiling: Callable[..., CompileModel]) -> None:
    """Training, validation and weights; noise too, because eager kernels draw the same."""
    validation = make_batches(1, 1, 2, samples=LENGTHS)
    models = [model_of(activation_checkpointing=True) for _ in range(2)]
    callback = compiling()
    graphs = callback.compiler.num_graphs
    records = [
        run(model=model, callbacks=callbacks, validation=validation, val_check_interval=4)
        for model, callbacks in zip(models, ([callback], []), strict=True)
    ]
    assert callback.compiler.num_graphs > graphs
    assert records[0].losses == pytest.approx(records[1].losses, rel=1e-5)
    for name, value in records[1].metrics[-1].items():
        if not name.endswith("per_second"):
            assert records[0].metrics[-1][name] == pytest.approx(value, rel=1e-4), name
    for name, parameter in parameters_of(models[1]).items():
        assert_close(parameters_of(models[0])[name], parameter, rtol=1e-4, atol=1e-6)
    assert list(models[0].state_dict()) == list(models[1].state_dict())


@pytest.mark.parametrize("first", [True, False])
def test_a_run_can_be_resumed_with_and_without(
    first: bool, tmp_path: Path, compiling: Callable[..., CompileModel]
) -> None:
    """From a checkpoint of a compiled run without compilation, and vice versa."""
    batches = with_updates(make_batches(2, 2, 3, samples=LENGTHS), 2)  # an epoch of two updates
    expected = fit(model_of(), batches, 4, 2)
    save = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    halves = ([compiling()], []) if first else ([], [compiling()])
    first_half = fit(model_of(), batches, 2, 2, callbacks=[save, *halves[0]], enable_checkpointing=True)
    rest = fit(model_of(), batches, 4, 2, callbacks=halves[1], ckpt_path=str(tmp_path / "half.ckpt"))
    assert first_half.losses + rest.losses == pytest.approx(expected.losses, rel=1e-5)
    assert len(rest.losses) == 4


@needs_compiler
@in_a_process_of_its_own
def test_gradient_flow_is_the_same_with_and_without(tmp_path: Path) -> None:
    """It runs several backward passes over one graph, which compiled code allows only without donated buffers."""
    matrices = []
    for callbacks in ([CompileModel(parts=["loss"])], []):
        flow = GradientFlow(every=1)
        run(updates=1, callbacks=[flow, *callbacks], default_root_dir=tmp_path)
        matrices.append(flow.matrix)
    assert matrices[0] is not None
    assert matrices[1] is not None
    assert matrices[0].parts == matrices[1].parts
    assert_close(matrices[0].norms, matrices[1].norms, rtol=1e-4, atol=1e-7)


def test_a_copy_of_the_model_is_independent(compiling: Callable[..., CompileModel]) -> None:
    """As averaging callbacks make one: the copy must not refer to the compiled code of the model."""
    model = model_of()
    run(updates=1, model=model, callbacks=[compiling()])
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in other.context.layers[-1].feedforward_norm.parameters():
            parameter.zero_()
    frames = torch.ones(1, 20, other.context.model_dim)
    assert (other.context(frames) == 0).all()
    assert (model.eval().context(frames) != 0).any()


@in_a_process_of_its_own
def test_without_a_compiler_a_warning_and_the_same_losses(tmp_path: Path) -> None:
    """Inductor itself, without a C++ compiler and without a cache."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path)
    expected = run(updates=1)
    missing = {"cpp.cxx": (None, str(tmp_path / "no-compiler")), "force_disable_caches": True}
    with torch._inductor.config.patch(missing):
        with pytest.warns(UserWarning, match=r"no effect on a region that could not be compiled: .*C\+\+ compiler"):
            found = run(updates=1, callbacks=[CompileModel(parts=["loss"])])
        os.environ["W2VLAB_TRACEBACK"] = "1"
        with pytest.raises(Exception, match=r"C\+\+ compiler"):
            run(updates=1, callbacks=[CompileModel(parts=["loss"])])
    assert found.losses == expected.losses


class CountingQuantizer(IdentityQuantizer, Compilable):
    """Reads a number that differs in every batch, although it claims to be `Compilable`."""

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.batches = ""

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        factor = float(len(self.batches)) + 1.0
        output = super().forward(latents * factor, padding_mask)
        return QuantizerOutput(quantized=output.quantized / factor, codes=output.codes)


def test_repeated_recompilation_warns_once(
    monkeypatch: pytest.MonkeyPatch, compiling: Callable[..., CompileModel]
) -> None:
    monkeypatch.setattr(compile_module, "_WARMUP_UPDATES", 2)
    torch.manual_seed(0)
    model = build_model(FuturePrediction, quantizer=CountingQuantizer, optimizer=plain_sgd, scheduler=constant_rate)
    model.quantizer.register_forward_pre_hook(lambda module, inputs: setattr(module, "batches", module.batches + "x"))
    with pytest.warns(UserWarning, match="still recompiles: since update 2, 3 updates recompiled a region") as caught:
        run(updates=8, accumulate=1, model=model, callbacks=[compiling(parts=["quantizer"])])
    assert len([warning for warning in caught if "still recompiles" in str(warning.message)]) == 1


def test_a_few_late_compilations_do_not_warn(
    monkeypatch: pytest.MonkeyPatch, compiling: Callable[..., CompileModel]
) -> None:
    monkeypatch.setattr(compile_module, "_WARMUP_UPDATES", 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*still recompiles.*")
        run(updates=6, accumulate=1, callbacks=[compiling()])


def test_only_the_parts_that_are_named_are_compiled(compiling: Callable[..., CompileModel]) -> None:
    model = model_of()
    run(updates=1, model=model, callbacks=[compiling(parts=["context", "loss"])])
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ["context.layers.0", "context.layers.1", "loss.pair_scores"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "reduce-overhead"}, "`mode` must be one of 'default', 'max-autotune-no-cudagraphs', but is reduce-"),
        ({"parts": []}, "`parts` must name at least one part, or be null for all, but is empty"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompileModel(**options)


def test_unknown_parts() -> None:
    with pytest.raises(ValueError, match=r"`parts` must name parts of the model, .*encoder.*, but one is encodr"):
        run(updates=1, callbacks=[CompileModel(parts=["encodr"])])


def test_parts_and_models_without_regions_warn() -> None:
    quantizer, encoder, context = (factory(cls) for cls in (EMAQuantizer, LogMelEncoder, GRUContext))
    model = build_model(MaskedPrediction, quantizer=quantizer, encoder=encoder, context=context)
    with pytest.warns(UserWarning, match="`parts` has no effect on quantizer: none of its modules can be compiled"):
        assert compile_module.find_regions(model, ["quantizer"]) == {}
    bare = build_model(FuturePrediction, quantizer=factory(IdentityQuantizer), encoder=encoder, context=context)
    with pytest.warns(UserWarning, match="CompileModel has no effect: no part of this model can be compiled"):
        run(updates=1, accumulate=1, model=bare, callbacks=[CompileModel()])


def test_a_part_that_is_not_compilable_stays_eager() -> None:
    """A part of another package that is not `Compilable`."""

    class Elsewhere(IdentityQuantizer):
        pass

    model = build_model(FuturePrediction, quantizer=partial(Elsewhere))
    assert "quantizer" not in compile_module.find_regions(model)
    assert isinstance(build(GumbelQuantizer), Compilable)
