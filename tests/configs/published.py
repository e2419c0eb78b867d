"""The published models in fairseq's terms: their options, and the shape of every tensor for these options."""

from __future__ import annotations

WAV2VEC2_LAYERS = [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]
WAV2VEC_LAYERS = [(512, 10, 5), (512, 8, 4), *[(512, 4, 2)] * 3]
AGGREGATOR = [(512, kernel, 1) for kernel in range(2, 14)]

BASE = {
    "kind": "Wav2Vec2Model",
    "conv_feature_layers": WAV2VEC2_LAYERS,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "final_dim": 256,
    "latent_vars": 320,
    "latent_groups": 2,
    "quantize_targets": True,
}
LARGE = BASE | {
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
    "final_dim": 768,
}
WAV2VEC = {
    "kind": "Wav2VecModel",
    "conv_feature_layers": [*WAV2VEC_LAYERS, *[(512, 1, 1)] * 2],
    "conv_aggregator_layers": AGGREGATOR,
    "prediction_steps": 12,
    "vq_type": "none",
}
VQ_WAV2VEC = WAV2VEC | {
    "conv_feature_layers": [*WAV2VEC_LAYERS, *[(512, 1, 1)] * 3],
    "vq_vars": 320,
    "vq_groups": 2,
    "combine_groups": True,
}

PUBLISHED = {
    "wav2vec_large": WAV2VEC,
    "vq_wav2vec_gumbel": VQ_WAV2VEC | {"vq_type": "gumbel", "vq_depth": 2},
    "vq_wav2vec_kmeans": VQ_WAV2VEC | {"vq_type": "kmeans"},
    "wav2vec2_base": BASE,
    "wav2vec2_large": LARGE,
    "wav2vec2_large_lv60": LARGE | {"extractor_mode": "layer_norm", "conv_bias": True, "layer_norm_first": True},
}

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(options: dict) -> Shapes:
    """Every tensor of the model that fairseq builds from `options`, by fairseq's name."""
    return _wav2vec2(options) if options["kind"] == "Wav2Vec2Model" else _wav2vec(options)


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _wav2vec2(options: dict) -> Shapes:
    layer_norm = options.get("extractor_mode") == "layer_norm"
    shapes: Shapes = {}
    before = 1
    for index, (width, kernel, _) in enumerate(options["conv_feature_layers"]):
        name = f"feature_extractor.conv_layers.{index}"
        shapes[f"{name}.0.weight"] = (width, before, kernel)
        if options.get("conv_bias"):
            shapes[f"{name}.0.bias"] = (width,)
        if layer_norm:
            shapes |= _affine(f"{name}.2.1", width)
        elif index == 0:
            shapes |= _affine(f"{name}.2", width)
        before = width
    model, inner, final = (options[k] for k in ("encoder_embed_dim", "encoder_ffn_embed_dim", "final_dim"))
    groups, entries = options["latent_groups"], options["latent_vars"]
    kernel, conv_groups = options["conv_pos"], options["conv_pos_groups"]
    shapes |= _affine("layer_norm", before) | _affine("post_extract_proj", model, before)
    shapes["mask_emb"] = (model,)
    shapes["encoder.pos_conv.0.bias"] = (model,)
    shapes["encoder.pos_conv.0.weight_g"] = (1, 1, kernel)
    shapes["encoder.pos_conv.0.weight_v"] = (model, model // conv_groups, kernel)
    shapes |= _affine("encoder.layer_norm", model)
    for index in range(options["encoder_layers"]):
        name = f"encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{name}.self_attn.{projection}", model, model)
        shapes |= _affine(f"{name}.self_attn_layer_norm", model) | _affine(f"{name}.final_layer_norm", model)
        shapes |= _affine(f"{name}.fc1", inner, model) | _affine(f"{name}.fc2", model, inner)
    shapes |= _affine("final_proj", final, model) | _affine("project_q", final, final)
    shapes["quantizer.vars"] = (1, groups * entries, final // groups)
    return shapes | _affine("quantizer.weight_proj", groups * entries, before)


def _wav2vec(options: dict) -> Shapes:
    shapes: Shapes = {}
    before = 1
    for index, (width, kernel, _) in enumerate(options["conv_feature_layers"]):
        shapes[f"feature_extractor.conv_layers.{index}.0.weight"] = (width, before, kernel)
        shapes |= _affine(f"feature_extractor.conv_layers.{index}.2", width)
        before = width
    if options["vq_type"] != "none":
        shapes |= _vq(options, before)
    for index, (width, kernel, _) in enumerate(options["conv_aggregator_layers"]):
        name = f"feature_aggregator.conv_layers.{index}"
        shapes |= _affine(f"{name}.1", width, before, kernel) | _affine(f"{name}.3", width)
    steps = options["prediction_steps"]
    shapes["wav2vec_predictions.project_to_steps.weight"] = (width, before, 1, steps)
    shapes["wav2vec_predictions.project_to_steps.bias"] = (before,)
    return shapes


def _vq(options: dict, width: int) -> Shapes:
    groups, entries = options["vq_groups"], options["vq_vars"]
    tables = 1 if options["combine_groups"] else groups
    if options["vq_type"] == "kmeans":
        return {
            "vector_quantizer.embedding": (entries, tables, width // groups),
            "vector_quantizer.projection.0.weight": (width, width // groups, 1),
            **_affine("vector_quantizer.projection.1", width),
        }
    return {
        "vector_quantizer.vars": (1, tables * entries, width // groups),
        **_affine("vector_quantizer.weight_proj.0.0", 2 * width, width),
        **_affine("vector_quantizer.weight_proj.1", groups * entries, 2 * width),
    }
