"""The weights of another model are loaded part by part, and every part that stays new says why."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.contracts.tiny import WIDTH, all_parts, build, build_model, classes, factory
from tests.modules.finetuning.recognition import CONFIGS, fine_tune, pretrain
from tests.modules.training import fit, make_batches
from w2vlab.cli.lightning.parsed import build_pretraining
from w2vlab.contexts import GRUContext, TransformerContext
from w2vlab.encoders import ConvFeatureEncoder, LogMelEncoder
from w2vlab.evaluation.evaluate import random_twin
from w2vlab.formats import HEAD, LazyWeights, Origin, PublishedModel
from w2vlab.interfaces import Quantizer, Teacher
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.modules.checkpoints.constructors import constructor_arguments
from w2vlab.modules.checkpoints.initial_weights import WarmStart
from w2vlab.modules.warm_start import loading
from w2vlab.modules.warm_start.options import FAMILIES_OF_PARTS, MAY_DIFFER, MUST_AGREE, OF_THE_OBJECTIVE
from w2vlab.positions import RelativeKeyPositions, RotaryPositions
from w2vlab.quantizers import FileTargets, FiniteScalarQuantizer, GumbelQuantizer, IdentityQuantizer, KMeansQuantizer
from w2vlab.utils.messages import W2VLabWarning

ALL = ["mask_embedding", "encoder", "norm", "quantizer", "context", "loss"]


def build_objective(cls: type[PretrainingModule] = MaskedPrediction, seed: int = 0, **arguments: Any) -> Any:
    """A tiny model whose weights are drawn from a seed of their own."""
    torch.manual_seed(seed)
    return build_model(cls, **arguments)


def published(module: PretrainingModule, missing: tuple[str, ...] = (), **weights: torch.Tensor) -> PublishedModel:
    """The model as a reader would return it: plain options, and weights that are read on access."""
    assert module.run_config is not None
    config = copy.deepcopy(module.run_config["model"])
    tensors = {
        name: tensor for name, tensor in module.state_dict().items() if name.partition(".")[0] not in missing
    } | weights
    readers = {name: partial(torch.clone, tensor) for name, tensor in tensors.items()}
    if "quantizer" in missing:
        config["init_args"]["quantizer"] = {"class_path": "w2vlab.quantizers.IdentityQuantizer", "init_args": {}}
    notes = ["Its masking is not that of pretraining."]
    origin = Origin(format="transformers", architecture="Wav2Vec2ForPreTraining", notes=notes)
    return PublishedModel(config=config, weights=LazyWeights(readers), missing=missing, origin=origin)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Callable[[PublishedModel], None]:
    """Sets what is read from any `init_from`."""

    def set_model(model: PublishedModel) -> None:
        monkeypatch.setattr(loading, "read_source", lambda *_, **__: model)

    return set_model


def outcome(module: Any) -> dict[str, str | None]:
    """Why each part is new; None for a loaded one."""
    assert isinstance(module.warm_start, WarmStart)
    return {part.part: None if part.loaded else part.why for part in module.warm_start.parts}


def same_weights(part: str, one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine if name.partition(".")[0] == part)


@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
def test_a_source_of_the_same_model_is_loaded_whole(cls, source):
    theirs = build_objective(cls, quantizer=factory(GumbelQuantizer))
    source(published(theirs))
    ours = build_objective(cls, seed=1, quantizer=factory(GumbelQuantizer), init_from="theirs")
    assert set(outcome(ours).values()) == {None}
    assert sum(part.parameters for part in ours.warm_start.parts) == sum(t.numel() for t in ours.state_dict().values())
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_new_parts_have_the_weights_that_the_seed_gives_without_a_warm_start(source):
    """So that a control from new weights differs in the loaded parts alone."""
    source(published(build_objective(), missing=("quantizer", "loss")))
    fresh, ours = build_objective(seed=3), build_objective(seed=3, init_from="theirs")
    assert same_weights("quantizer", fresh, ours)
    assert not same_weights("context", fresh, ours)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"quantizer": factory(KMeansQuantizer)},
            {
                "quantizer": "another quantizer: KMeansQuantizer, the source has GumbelQuantizer",
                "loss": "it goes with quantizer, which differs: another quantizer: KMeansQuantizer, the source has "
                "GumbelQuantizer",
            },
        ),
        (
            {"quantizer": factory(GumbelQuantizer, codebook_size=7)},
            {
                "quantizer": "another option: `codebook_size` is 7, the source has 5",
                "loss": "it goes with quantizer, which differs: another option: `codebook_size` is 7, the source has 5",
            },
        ),
        (
            {"context": factory(TransformerContext, model_dim=12)},
            {
                "context": "another width: `model_dim` is 12, the source has 8",
                "mask_embedding": "it goes with context, which differs: another width: `model_dim` is 12, the source "
                "has 8",
                "loss": "another shape: loss.context_projection.weight is 6 x 12, the source has 6 x 8",
            },
        ),
        (
            {"context": factory(TransformerContext, pre_norm=True)},
            {
                "context": "another option: `pre_norm` is true, the source has false",
                "mask_embedding": "it goes with context, which differs: another option: `pre_norm` is true, the source "
                "has false",
            },
        ),
        (
            {"context": factory(GRUContext)},
            {
                "context": "another context network: GRUContext, the source has TransformerContext",
                "mask_embedding": "it goes with context, which differs: another context network: GRUContext, the "
                "source has TransformerContext",
            },
        ),
        (
            {"encoder": factory(ConvFeatureEncoder, layers=[(WIDTH, 10, 5), (WIDTH, 2, 2)])},
            {
                "encoder": "another option: `layers.1` is [8, 2, 2], the source has [8, 3, 2]",
                "norm": "it goes with encoder, which differs: another option: `layers.1` is [8, 2, 2], the source has "
                "[8, 3, 2]",
            },
        ),
        (
            {"encoder": factory(ConvFeatureEncoder, layers=[(WIDTH, 10, 5)])},
            {
                "encoder": "another option: `layers` has 1 entries, the source has 2",
                "norm": "it goes with encoder, which differs: another option: `layers` has 1 entries, the source has 2",
            },
        ),
        (
            {"inputs": "quantized"},
            {
                "context": "another option: `inputs` is quantized, the source has continuous",
                "mask_embedding": "it goes with context, which differs: another option: `inputs` is quantized, the "
                "source has continuous",
            },
        ),
        (
            {"input_quantizer": factory(KMeansQuantizer), "inputs": "quantized"},
            {"input_quantizer": "the source has none"},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_part_that_differs_stays_new_and_says_why(arguments, expected, source):
    theirs = build_objective()
    source(published(theirs))
    ours = build_objective(seed=1, init_from="theirs", **arguments)
    found = outcome(ours)
    assert {name: found[name] for name in expected} == expected
    loaded = {name for name, why in found.items() if why is None}
    assert loaded
    assert all(same_weights(part, theirs, ours) for part in loaded)
    if "inputs" not in arguments:
        assert loaded == set(ALL) - expected.keys()


def test_options_of_training_do_not_matter(source):
    theirs = build_objective()
    source(published(theirs))
    ours = build_objective(
        seed=1,
        encoder=factory(ConvFeatureEncoder, gradient_scale=1.0, padding="include"),
        context=factory(TransformerContext, dropout=0.3, layer_drop=0.5, activation_checkpointing=True),
        quantizer=factory(GumbelQuantizer, temperature_start=0.5, noise=False),
        feature_dropout=0.4,
        penalties={},
        init_from="theirs",
    )
    assert outcome(ours) == dict.fromkeys(ALL)
    assert ours.quantizer.temperature == 0.5


def test_another_objective_gives_the_parts_that_both_have(source):
    """The encoder of vq-wav2vec under wav2vec 2.0, and its quantizer."""
    theirs = build_objective(FuturePrediction, quantizer=factory(GumbelQuantizer))
    source(published(theirs))
    ours = build_objective(seed=1, init_from="theirs")
    assert outcome(ours) == {
        "encoder": None,
        "quantizer": None,
        "norm": "the source has none",
        "context": "another context network: TransformerContext, the source has ConvContext",
        "loss": "another objective: MaskedPrediction, the source has FuturePrediction",
        "mask_embedding": "another objective: MaskedPrediction, the source has FuturePrediction",
    }
    source(published(build_objective()))
    back = build_objective(FuturePrediction, seed=1, init_from="theirs", quantizer=factory(GumbelQuantizer))
    assert outcome(back)["encoder"] is None
    assert back.warm_start.unused == ("mask_embedding", "norm")


def test_a_source_without_a_quantizer_gives_the_others(source):
    """HuBERT and data2vec."""
    source(published(build_objective(), missing=("quantizer", "loss")))
    ours = build_objective(seed=1, init_from="theirs")
    assert {part: why for part, why in outcome(ours).items() if why} == dict.fromkeys(
        ("quantizer", "loss"), "the source has none"
    )


def test_the_head_of_a_fine_tuned_source_is_not_used(source):
    head = {name: torch.zeros(3) for name in HEAD}
    source(published(build_objective(), missing=("quantizer", "loss"), **head))
    ours = build_objective(seed=1, init_from="theirs")
    assert ours.warm_start.unused == ("head",)
    assert ours.warm_start.lines()[-2:] == [
        "  not used of the source: head",
        "  note on the source: Its masking is not that of pretraining.",
    ]


def test_a_source_that_has_lost_its_mask_embedding_is_an_error_with_the_way_out(source):
    """As transformers saves a fine-tuned model whose `mask_time_prob` is 0."""
    source(published(build_objective(), missing=("quantizer", "loss", "mask_embedding")))
    with pytest.raises(
        ValueError, match=r"must have a mask embedding, but theirs .transformers, Wav2Vec2ForPreTraining. has none"
    ) as problem:
        build_objective(init_from="theirs")
    parts = str(problem.value).rpartition("[")[2].rstrip("].").split(",")
    assert parts == ["encoder", "norm", "context"]
    ours = build_objective(seed=1, init_from="theirs", init_from_parts=parts)
    assert {part for part, why in outcome(ours).items() if why is None} == set(parts)
    # A context network that is new anyway needs no mask embedding of the source.
    other = build_objective(seed=1, init_from="theirs", context=factory(GRUContext))
    assert outcome(other)["mask_embedding"] == "the source has none"


def test_chosen_parts_alone_are_loaded(source):
    theirs = build_objective()
    source(published(theirs))
    ours = build_objective(seed=1, init_from="theirs", init_from_parts=["encoder", "norm"])
    assert outcome(ours) == {part: None if part in ("encoder", "norm") else "not in `init_from_parts`" for part in ALL}
    assert same_weights("encoder", theirs, ours)
    assert not same_weights("context", theirs, ours)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["quantizer"], "but quantizer of theirs does not: another quantizer: KMeansQuantizer, the source has Gumbel"),
        (["decoder"], r"must be parts of the model that have weights \(.*encoder, norm.*\), but has decoder"),
        (["masking"], "but has masking"),
        ([], "but is empty"),
    ],
)
def test_chosen_parts_must_fit(parts, message, source):
    source(published(build_objective()))
    with pytest.raises(ValueError, match=message):
        build_objective(init_from="theirs", init_from_parts=parts, quantizer=factory(KMeansQuantizer))


def test_a_source_of_which_nothing_fits_is_an_error(source):
    source(published(build_objective(FuturePrediction, encoder=factory(ConvFeatureEncoder, layers=[(4, 10, 5)]))))
    with pytest.raises(
        ValueError,
        match=r"a part fits, but of theirs none does .*encoder: another option: `layers`.*w2vlab import theirs",
    ):
        build_objective(init_from="theirs")


def test_parts_without_a_source_warn():
    with pytest.warns(W2VLabWarning, match="`init_from_parts` has no effect without `init_from`"):
        build_objective(init_from_parts=["encoder"])


def test_other_tensors_and_shapes_are_named(source):
    theirs = published(build_objective())
    tensors = dict(theirs.weights)
    tensors["norm.extra"] = torch.zeros(2)
    tensors["encoder.blocks.0.conv.weight"] = tensors["encoder.blocks.0.conv.weight"][:, :, :-1]
    theirs.weights = tensors
    source(theirs)
    found = outcome(build_objective(init_from="theirs"))
    assert found["norm"] == "other tensors: the model has no norm.extra"
    assert found["encoder"] == "another shape: encoder.blocks.0.conv.weight is 8 x 1 x 10, the source has 8 x 1 x 9"


def test_what_goes_with_a_part_of_another_shape_stays_new(source):
    """Such as a mask embedding for a context network that projects latents of another width."""
    theirs = published(build_objective())
    tensors = dict(theirs.weights)
    for name in ("context.norm.weight", "quantizer.entries"):
        tensors[name] = tensors[name][..., :-1]
    theirs.weights = tensors
    source(theirs)
    found = outcome(build_objective(init_from="theirs"))
    assert {part for part, why in found.items() if why is None} == {"encoder", "norm"}
    assert found["mask_embedding"].startswith("it goes with context, which differs: another shape: context.norm.weight")
    assert found["loss"].startswith("it goes with quantizer, which differs: another shape: quantizer.entries")


def test_codes_of_other_targets_stay_new(source):
    """The quantizer and the loss were trained for the frames of their target encoder."""

    def build_with_targets(**arguments: Any) -> Any:
        layers = {"layers": [(WIDTH, 400, 160)]}
        mel = {"window_samples": 400, "hop_samples": 160, "stack": 1, "num_mels": 8}
        return build_objective(
            encoder=factory(ConvFeatureEncoder, **layers),
            target_encoder=partial(LogMelEncoder, **mel, **arguments.pop("mel", {})),
            **arguments,
        )

    source(published(build_with_targets()))
    assert set(outcome(build_with_targets(init_from="theirs")).values()) == {None}
    found = outcome(build_with_targets(init_from="theirs", mel={"floor": 1e-3}))
    reason = "it goes with target_encoder, which differs: another option: `floor` is 0.001, the source has 1e-07"
    assert {part: why for part, why in found.items() if why} == dict.fromkeys(
        ("target_norm", "quantizer", "loss"), reason
    )


def test_a_part_that_a_function_builds_is_compared_by_class_and_shapes(source):
    source(published(build_objective()))
    context = factory(TransformerContext)
    ours = build_objective(seed=1, init_from="theirs", context=lambda width: context(width))
    assert outcome(ours)["context"] is None
    (why,) = {part.why for part in ours.warm_start.parts if part.part == "context"}
    assert why == "its options are not recorded, so class and shapes were compared"


def test_weights_of_another_type_become_those_of_the_model(source):
    theirs = published(build_objective())
    theirs.weights = {name: tensor.half() for name, tensor in theirs.weights.items()}
    source(theirs)
    ours = build_objective(init_from="theirs")
    assert ours.encoder.blocks[0].conv.weight.dtype == torch.float32
    assert torch.equal(ours.norm.weight, theirs.weights["norm.weight"].float())


def test_tensors_are_read_one_at_a_time_and_parts_that_differ_are_not_read(source):
    theirs, read = published(build_objective()), []
    names = list(theirs.weights)
    tensors = dict(theirs.weights)

    def reader(name: str) -> Callable[[], torch.Tensor]:
        return lambda: (read.append(name), tensors[name])[1]

    theirs.weights = LazyWeights({name: reader(name) for name in names})
    source(theirs)
    build_objective(init_from="theirs", quantizer=factory(KMeansQuantizer))
    assert {name.partition(".")[0] for name in read} == set(ALL) - {"quantizer", "loss"}


def test_other_units_leave_the_scores_of_the_units_new(source):
    """The second iteration of a HuBERT that starts from the first: an entry of the loss is a unit of its file."""

    def hubert(path: str, **arguments: Any) -> Any:
        quantizer = factory(FileTargets, path=path)
        return build_objective(quantizer=quantizer, loss=factory(CodePredictionLoss), **arguments)

    source(published(hubert("first")))
    assert set(outcome(hubert("first", seed=1, init_from="theirs")).values()) == {None}
    found = outcome(hubert("second", seed=1, init_from="theirs"))
    why = "another option: `path` is second, the source has first"
    assert found == dict.fromkeys(set(ALL) - {"quantizer"}) | {"loss": f"it goes with quantizer, which differs: {why}"}


CONTEXTS = {
    "none": factory(TransformerContext),
    "rotary": factory(TransformerContext, attention_positions=RotaryPositions),
    "rotary, slow": factory(TransformerContext, attention_positions=partial(RotaryPositions, base=500.0)),
    "keys": factory(TransformerContext, attention_positions=partial(RelativeKeyPositions, left=3, right=1)),
    "keys, long": factory(TransformerContext, attention_positions=partial(RelativeKeyPositions, left=4, right=1)),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_positions_of_the_attention_must_agree(source, name):
    """Also those that have no weights, and those of a model from before there were any."""
    theirs = published(build_objective(context=CONTEXTS[name]))
    source(theirs)
    found = {
        ours: outcome(build_objective(seed=1, init_from="theirs", context=context))["context"]
        for ours, context in CONTEXTS.items()
    }
    assert found.pop(name) is None
    assert None not in found.values()
    if name == "rotary":
        assert found["rotary, slow"] == "another option: `base` is 500.0, the source has 10000.0"
        assert found["none"].startswith("another option: `attention_positions` is null, the source has ")
    if name == "keys":
        assert found["keys, long"] == "another option: `left` is 4, the source has 3"
    if name == "none":
        for option in ("attention_positions", "qkv_bias"):
            del theirs.config["init_args"]["context"]["init_args"][option]
        source(theirs)
        for ours, context in CONTEXTS.items():
            why = outcome(build_objective(seed=1, init_from="theirs", context=context))["context"]
            assert (why is None) == (ours == "none"), why


# Options.


def own_options(cls: type) -> set[str]:
    """The options that YAML has, without those that the module supplies."""
    supplied = {"input_dim", "context_dim", "targets"} | ({"context"} if issubclass(cls, Teacher) else set())
    return set(constructor_arguments(cls)) - supplied


@pytest.mark.parametrize("family", sorted(set(FAMILIES_OF_PARTS.values())))
def test_every_option_of_every_part_is_declared(family):
    declared = MUST_AGREE[family] | MAY_DIFFER[family]
    assert not MUST_AGREE[family] & MAY_DIFFER[family]
    shipped = [cls for name, cls in all_parts() if name == family and cls.__module__.startswith("w2vlab.")]
    assert {option for cls in shipped for option in own_options(cls)} <= declared


def test_every_option_of_an_objective_is_considered():
    """Those of parts are compared; the others do not change what weights mean, apart from `OF_THE_OBJECTIVE`."""
    of_training = {"masking", "penalties", "target_gradient", "feature_dropout", "optimizer", "scheduler", "seed"}
    of_training |= {"masked_copies", "freeze_frontend_from"}
    of_the_warm_start = {"init_from", "init_from_parts"}
    for cls in (MaskedPrediction, FuturePrediction, TeacherPrediction):
        options = own_options(cls) - of_training - of_the_warm_start
        assert options <= FAMILIES_OF_PARTS.keys() | OF_THE_OBJECTIVE.keys()


@pytest.mark.parametrize("family", ["masking", "penalty", "negatives"])
def test_other_families_have_no_weights(family):
    assert [cls.__name__ for cls in classes(family) if build(cls).state_dict()] == []


class _OwnQuantizer(IdentityQuantizer):
    """A part of another package, with an option of its own that changes no shape."""

    def __init__(self, input_dim: int, own_option: int = 1) -> None:
        super().__init__(input_dim)
        self.own_option = own_option
        self.scale = nn.Parameter(torch.ones(input_dim))


def test_an_option_that_is_not_declared_must_agree(source):
    source(published(build_objective(quantizer=_OwnQuantizer)))
    ours = build_objective(init_from="theirs", quantizer=partial(_OwnQuantizer, own_option=2))
    assert outcome(ours)["quantizer"] == "another option: `own_option` is 2, the source has 1"


# Not read again.


def save(module: PretrainingModule, path: Path) -> Path:
    fit(module, make_batches(1, 1, 2), 1, enable_checkpointing=True, callbacks=[], default_root_dir=path.parent)
    module.trainer.save_checkpoint(path)
    return path


def test_the_source_is_not_needed_again(tmp_path):
    """It is deleted; the checkpoint is opened, evaluated against its random control, and fine-tuned from."""
    first = save(build_objective(), tmp_path / "first.ckpt")
    ours = build_objective(seed=1, init_from=str(first))
    assert outcome(ours) == dict.fromkeys(ALL)
    second = save(ours, tmp_path / "second.ckpt")
    first.unlink()
    opened = PretrainingModule.load_from_checkpoint(second)
    assert opened.warm_start is None
    assert opened.run_config["model"]["init_args"]["init_from"] == str(first)
    assert torch.equal(opened.norm.weight, ours.norm.weight)
    overridden = PretrainingModule.load_from_checkpoint(second, feature_dropout=0.2)
    assert overridden.run_config["model"]["init_args"]["init_from"] == str(first)
    twin = random_twin(opened)
    assert twin is not None
    assert not same_weights("context", twin, opened)
    # A missing source is an error of a new run alone.
    with pytest.raises(ValueError, match="`init_from` must be"):
        build_objective(init_from=str(first))
    # The second run is a source in turn.
    third = build_objective(seed=2, init_from=str(second))
    assert same_weights("context", third, ours)


@pytest.mark.parametrize(
    ("kind", "missing"), [("masked", {"quantizer", "loss"}), ("quantized", {"loss"}), ("codes", {"loss"})]
)
def test_a_fine_tuned_model_of_ours_gives_the_parts_that_it_has(tmp_path, kind, missing):
    """Fine-tuning keeps the quantizer only where its codes are the inputs of the context network."""
    pretrained, finetuned = tmp_path / "pretrained.ckpt", tmp_path / "finetuned.ckpt"
    pretrain(pretrained, kind)
    theirs = fine_tune(finetuned, pretrained)
    config = copy.deepcopy(CONFIGS[kind])
    config["init_args"]["init_from"] = str(finetuned)
    ours = build_pretraining(config)
    assert {part: why for part, why in outcome(ours).items() if why} == dict.fromkeys(missing, "the source has none")
    assert "head" in ours.warm_start.unused
    assert same_weights("context", ours, theirs)


def test_a_warm_start_is_a_new_run_at_update_0(tmp_path, caplog):
    theirs = build_objective()
    fit(theirs, make_batches(3, 1, 2), 3)
    path = tmp_path / "theirs.ckpt"
    theirs.trainer.save_checkpoint(path)
    ours = build_objective(seed=1, init_from=str(path))
    with caplog.at_level("INFO"):
        record = fit(ours, make_batches(2, 1, 2), 2)
    assert ours.trainer.global_step == 2
    assert record.temperatures[0] == ours.quantizer.temperature_start
    lines = [message for message in caplog.messages if "encoder: loaded" in message]
    assert len(lines) == 1
    assert any(message.startswith(f"Warm start from {path} (w2vlab):") for message in caplog.messages)


def test_on_the_meta_device_the_parts_are_compared_and_nothing_is_copied(source):
    """As a sweep checks its trials."""
    source(published(build_objective()))
    with torch.device("meta"):
        ours = build_model(MaskedPrediction, init_from="theirs")
    assert outcome(ours) == dict.fromkeys(ALL)


def test_the_table_is_plain_data(source):
    source(published(build_objective(), missing=("quantizer", "loss")))
    table = build_objective(init_from="theirs", init_from_parts=["encoder"]).warm_start.as_dict()
    assert table["source"] == "theirs"
    assert json.loads(json.dumps(table)) == table
    assert table["parts"][1] == {"part": "encoder", "loaded": True, "parameters": 288, "why": ""}
    assert {type(value) for part in table["parts"] for value in part.values()} <= {str, bool, int}


def test_parts_of_quantizers_without_weights_are_not_in_the_table(source):
    source(published(build_objective()))
    loss = factory(CodePredictionLoss)
    ours = build_objective(init_from="theirs", quantizer=factory(FiniteScalarQuantizer), loss=loss)
    assert isinstance(ours.quantizer, Quantizer)
    assert "loss" in outcome(ours)
