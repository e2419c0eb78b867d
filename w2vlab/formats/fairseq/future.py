"""fairseq's wav2vec and vq-wav2vec as a configuration of `FuturePrediction`."""

from __future__ import annotations

from typing import Any

from w2vlab.formats.fairseq.defaults import defaults_of
from w2vlab.formats.fairseq.masked import ENCODER, GUMBEL, IDENTITY, TEMPERATURES, part, read_loss_weights
from w2vlab.formats.fairseq.options import Options, Stored

KMEANS = "w2vlab.quantizers.KMeansQuantizer"


def read_future(stored: Stored, normalize: bool) -> dict[str, Any]:
    """Returns the configuration of wav2vec or vq-wav2vec.

    Options that change its outputs and that w2vlab does not have are refused. Those that change training alone are
    noted.

    Raises:
        ValueError: An option cannot be expressed.
    """
    options = Options(stored, "model", defaults_of("wav2vec", stored.layout))
    options.require("aggregator", "cnn", "fairseq's GRU runs over the utterances of a batch instead of over time")
    options.require("no_conv_bias", False, "the convolutions of w2vlab's context network have a bias")
    options.require("non_affine_group_norm", False, "w2vlab's norms have weights")
    options.require("project_features", "none", "w2vlab does not project the targets")
    options.note_unless("dropout_agg", 0.0, "w2vlab has no dropout after the context network")
    options.note_unless("cross_sample_negatives", 0, "w2vlab draws negatives from the same utterance")
    options.note_unless("sample_distance", None, "w2vlab draws negatives from the whole utterance")
    if options["dropout"]:
        stored.training_notes.append(
            "`dropout` was above 0: w2vlab has it in the context network, not in the predictions."
        )
    layers = options.layers("conv_feature_layers")
    context = options.layers("conv_aggregator_layers")
    if any(stride != 1 for _, _, stride in context):
        options.refuse("conv_aggregator_layers", "of stride 1", "w2vlab's context network keeps all frames")
    activation = options["activation"]
    if activation not in ("relu", "gelu"):
        options.refuse("activation", "relu or gelu")
    arguments: dict[str, Any] = {
        "encoder": part(
            ENCODER,
            layers=layers,
            normalization="group",
            bias=False,
            activation=activation,
            log_compression=options["log_compression"],
            skip_connections=options["skip_connections_feat"],
            residual_scale=options["residual_scale"],
            normalize_waveform=normalize,
            gradient_scale=1.0,
        ),
        "context": part(
            "w2vlab.contexts.ConvContext",
            layers=[[width, kernel] for width, kernel, _ in context],
            activation=activation,
            padding="zeros" if options["agg_zero_pad"] else "replicate",
            dropout=options["dropout"],
            skip_connections=options["skip_connections_agg"],
            residual_scale=options["residual_scale"],
        ),
        "quantizer": _quantizer(options, layers[-1][0], activation),
        "loss": _loss(options),
        "feature_dropout": options["dropout_features"],
    }
    return part("w2vlab.modules.FuturePrediction", **arguments | _penalties(options))


def _quantizer(options: Options, width: int, activation: str) -> dict[str, Any]:
    kind = options["vq_type"]
    if kind == "none":
        return part(IDENTITY)
    if kind not in ("gumbel", "kmeans"):
        options.refuse("vq_type", "none, gumbel or kmeans")
    if options["vq_dim"] > 0:
        options.require("vq_dim", width, "the quantized frames are the input of the context network")
    shape = {
        "num_codebooks": options["vq_groups"],
        "codebook_size": options["vq_vars"],
        "shared_codebook": options["combine_groups"],
    }
    if kind == "kmeans":
        return part(KMEANS, **shape, gamma=options["vq_gamma"])
    deep = {"projection_activation": activation} if options["vq_depth"] > 1 else {}
    temperatures = dict(zip(TEMPERATURES, options["vq_temp"], strict=True))
    return part(
        GUMBEL,
        **shape,
        output_dim=width,
        projection_depth=options["vq_depth"],
        projection_factor=2,
        **deep,
        **temperatures,
    )


def _loss(options: Options) -> dict[str, Any]:
    offset = options["offset"]
    if offset != "auto" and not (offset.isdecimal() and len(offset) < 6):
        options.refuse("offset", "auto or an integer")
    criterion = options.stored.group("criterion").get("infonce")
    infonce = options["infonce"] or options.stored.resolve(criterion) is True
    return part(
        "w2vlab.losses.FuturePredictionLoss",
        num_steps=options["prediction_steps"],
        num_negatives=options["num_negatives"],
        objective="infonce" if infonce else "logistic",
        offset=None if offset == "auto" else int(offset),
        balanced_classes=options["balanced_classes"] and not infonce,
    )


def _penalties(options: Options) -> dict[str, Any]:
    kind, weights = options["vq_type"], read_loss_weights(options.stored)
    if kind == "gumbel" and weights:
        # fairseq does not divide this term by the number of entries.
        weight = weights[0] * options["vq_groups"] * options["vq_vars"]
        return {"penalties": {"diversity": part("w2vlab.losses.DiversityPenalty", weight=weight)}}
    if kind == "kmeans" and weights is not None and weights != [1.0]:
        options.stored.training_notes.append(f"`loss_weights` was {weights}: w2vlab's k-means loss has weight 1.")
    return {"penalties": {}}
