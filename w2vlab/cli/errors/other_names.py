"""The options of fairseq and Hugging Face beside the equivalent ones of w2vlab.

Their names are those of fairseq's configurations (`dataclass/configs.py`, `models/wav2vec/wav2vec2.py`, `wav2vec.py`,
`tasks/audio_pretraining.py`, `data2vec_audio.py` and `data2vec2.py` of `examples/data2vec`), and of `Wav2Vec2Config`,
`Wav2Vec2FeatureExtractor`, `TrainingArguments` and the script `run_wav2vec2_pretraining_no_trainer.py` in transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from w2vlab.registry import did_you_mean


class Names(NamedTuple):
    """One option.

    Attributes:
        here: Its name in w2vlab.
        fairseq: Its names in fairseq, without the group, with spaces between them; empty without one.
        hugging_face: The same in transformers.
        note: What differs.
    """

    here: str
    fairseq: str = ""
    hugging_face: str = ""
    note: str = ""


TABLE = (
    Names("model.encoder.layers", "conv_feature_layers", "conv_dim conv_kernel conv_stride", "a list of lists"),
    Names("model.encoder.bias", "conv_bias", "conv_bias"),
    Names("model.encoder.normalization", "extractor_mode", "feat_extract_norm"),
    Names("model.encoder.activation", "", "feat_extract_activation"),
    Names("model.encoder.gradient_scale", "feature_grad_mult"),
    Names("model.encoder.normalize_waveform", "normalize", "do_normalize", "of the crop, not of the whole file"),
    Names("model.encoder.log_compression", "log_compression"),
    Names("model.encoder.skip_connections", "skip_connections_feat"),
    Names("model.context", "aggregator", "", "a class: ConvContext or GRUContext"),
    Names("model.context.model_dim", "encoder_embed_dim", "hidden_size"),
    Names("model.context.num_layers", "encoder_layers", "num_hidden_layers"),
    Names("model.context.num_heads", "encoder_attention_heads", "num_attention_heads"),
    Names("model.context.feedforward_dim", "encoder_ffn_embed_dim", "intermediate_size"),
    Names("model.context.pre_norm", "layer_norm_first", "do_stable_layer_norm"),
    Names("model.context.position_kernel", "conv_pos", "num_conv_pos_embeddings"),
    Names(
        "model.context.position_layers",
        "pos_conv_depth",
        "",
        "`num_conv_pos_embeddings` of data2vec; `position_kernel` is then its `conv_pos_kernel_size`",
    ),
    Names("model.context.position_groups", "conv_pos_groups", "num_conv_pos_embedding_groups"),
    Names(
        "model.context.attention_positions",
        "pos_enc_type",
        "position_embeddings_type",
        "a class: RelativePositions (`rel_pos`, `relative`), RotaryPositions with `before_projection` (`rope`, "
        "`rotary`) or RelativeKeyPositions (`relative_key`)",
    ),
    Names("model.context.kernel_size", "depthwise_conv_kernel_size", "conv_depthwise_kernel_size"),
    Names("model.context.dropout", "dropout", "hidden_dropout"),
    Names("model.context.attention_dropout", "attention_dropout", "attention_dropout"),
    Names("model.context.activation_dropout", "activation_dropout", "activation_dropout"),
    Names("model.context.input_dropout", "dropout_input", "feat_proj_dropout"),
    Names("model.context.layer_drop", "encoder_layerdrop", "layerdrop"),
    Names("model.context.activation_checkpointing", "checkpoint_activations", "gradient_checkpointing"),
    Names("model.context.layers", "conv_aggregator_layers", "", "of ConvContext"),
    Names("model.context.skip_connections", "skip_connections_agg", "", "of ConvContext"),
    Names("model.context.output_dim", "gru_dim", "", "of GRUContext"),
    Names("model.feature_dropout", "dropout_features", "feat_quantizer_dropout"),
    Names("model.quantizer", "quantize_targets vq_type", "", "a class: IdentityQuantizer leaves targets continuous"),
    Names("model.quantizer.num_codebooks", "latent_groups vq_groups", "num_codevector_groups"),
    Names("model.quantizer.codebook_size", "latent_vars vq_vars", "num_codevectors_per_group"),
    Names("model.quantizer.output_dim", "latent_dim vq_dim", "codevector_dim"),
    Names("model.quantizer.shared_codebook", "combine_groups"),
    Names("model.quantizer.projection_depth", "vq_depth"),
    Names(
        "model.quantizer.temperature_start", "latent_temp vq_temp", "max_gumbel_temperature", "first of fairseq's three"
    ),
    Names("model.quantizer.temperature_end", "", "min_gumbel_temperature", "second of fairseq's `latent_temp`"),
    Names("model.quantizer.temperature_decay", "", "gumbel_temperature_decay", "third of fairseq's `latent_temp`"),
    Names("model.quantizer.gamma", "vq_gamma", "", "of KMeansQuantizer"),
    Names("model.quantizer.path", "label_dir", "", "a file or folder of units; of FileTargets"),
    Names("model.quantizer.stride", "label_rate", "", "16,000 divided by it; of FileTargets, if the file does not say"),
    Names("model.inputs", "quantize_input", "", "`quantized`"),
    Names("model.input_quantizer", "same_quantizer", "", "null shares the one of the targets"),
    Names("model.teacher.layers", "average_top_k_layers", "", "the highest ones"),
    Names("model.teacher.norm", "instance_norm_target_layer layer_norm_target_layer", "", "`instance` or `layer`"),
    Names("model.teacher.decay", "ema_decay"),
    Names("model.teacher.end_decay", "ema_end_decay"),
    Names("model.teacher.anneal_updates", "ema_anneal_end_step"),
    Names("model.masked_copies", "clone_batch", "", "of TeacherPrediction (data2vec 2.0)"),
    Names("model.masking.probability", "mask_prob", "mask_time_prob"),
    Names("model.masking.length", "mask_length", "mask_time_length", "in frames"),
    Names("model.masking.min_spans", "", "mask_time_min_masks"),
    Names("model.masking.length_distribution", "mask_selection"),
    Names("model.masking.length_spread", "mask_other"),
    Names("model.masking.overlap", "no_mask_overlap", "", "the opposite"),
    Names("model.masking.min_space", "mask_min_space"),
    Names("model.masking.channel_probability", "mask_channel_prob", "mask_feature_prob", "of ChannelMasking"),
    Names("model.masking.channel_length", "mask_channel_length", "mask_feature_length", "of ChannelMasking"),
    Names("model.masking.min_channel_spans", "", "mask_feature_min_masks", "of ChannelMasking"),
    Names("model.masking.before", "mask_channel_before", "", "of ChannelMasking"),
    Names("model.loss.projection_dim", "final_dim", "proj_codevector_dim"),
    Names("model.loss.num_negatives", "num_negatives", "num_negatives"),
    Names("model.loss.logit_temperature", "logit_temp", "contrastive_logits_temperature"),
    Names("model.loss.num_other_negatives", "cross_sample_negatives"),
    Names("model.loss.num_codebook_negatives", "codebook_negatives"),
    Names("model.loss.negatives_from", "negatives_from_everywhere", "", "`anywhere`"),
    Names("model.loss.target_projection", "target_glu", "", "`glu`"),
    Names("model.loss.unmasked_weight", "pred_nomask_weight", "", "of CodePredictionLoss"),
    Names("model.loss.beta", "loss_beta", "", "of RegressionLoss"),
    Names("model.loss.scale", "loss_scale", "", "of RegressionLoss; null for one over the root of the width"),
    Names("model.loss.num_steps", "prediction_steps", "", "of FuturePredictionLoss"),
    Names("model.loss.objective", "infonce", "", "`infonce`; of FuturePredictionLoss"),
    Names("model.loss.offset", "offset", "", "null for fairseq's `auto`; of FuturePredictionLoss"),
    Names("model.loss.balanced_classes", "balanced_classes", "", "of FuturePredictionLoss"),
    Names("model.penalties.diversity.weight", "loss_weights", "diversity_loss_weight", "the first of fairseq's two"),
    Names("model.penalties.feature.weight", "", "", "the second of fairseq's `loss_weights`"),
    Names("model.optimizer", "", "optim", "a class of torch.optim; fairseq's `optimizer`"),
    Names("model.optimizer.lr", "lr", "learning_rate", "a number, not a list"),
    Names("model.optimizer.betas", "adam_betas", "adam_beta1 adam_beta2", "a list of two"),
    Names("model.optimizer.eps", "adam_eps", "adam_epsilon"),
    Names("model.optimizer.weight_decay", "weight_decay", "weight_decay", "decoupled, as in fairseq's `adam`"),
    Names("model.scheduler", "", "lr_scheduler_type", "a class; fairseq's `lr_scheduler`"),
    Names("model.scheduler.warmup_updates", "warmup_updates", "warmup_steps num_warmup_steps"),
    Names("model.scheduler.total_updates", "total_num_update"),
    Names("model.scheduler.end_factor", "end_learning_rate min_lr", "", "as a factor of `model.optimizer.lr`"),
    Names("model.checkpoint", "w2v_path", "model_name_or_path", "of CTCFineTuning"),
    Names("model.freeze_updates", "freeze_finetune_updates", "", "of CTCFineTuning"),
    Names(
        "data.corpus",
        "data multi_corpus_keys",
        "dataset_name",
        "a folder, a manifest or a name; or several",
    ),
    Names("data.alpha", "sampling_alpha multilang_sampling_alpha", "", "of several corpora"),
    Names("data.cache_dir", "", "cache_dir"),
    Names(
        "data.batch_seconds",
        "max_tokens",
        "per_device_train_batch_size",
        "in seconds, not samples: 1,400,000 are 87.5; and not utterances",
    ),
    Names("data.micro_batches", "update_freq", "gradient_accumulation_steps", "of all processes together"),
    Names("data.max_seconds", "max_sample_size", "max_duration_in_seconds", "in seconds; longer ones are cropped"),
    Names("data.min_seconds", "min_sample_size", "min_duration_in_seconds", "in seconds"),
    Names("data.crop_to_shortest", "enable_padding", "", "the opposite"),
    Names("data.num_workers", "num_workers", "dataloader_num_workers"),
    Names("data.validation", "valid_subset", "", "another corpus"),
    Names("data.validation_fraction", "", "validation_split_percentage", "a share, not percent"),
    Names("seed_everything", "seed", "seed"),
    Names("ckpt_path", "restore_file", "resume_from_checkpoint", "`last` finds it"),
    Names("checkpoint.every", "save_interval_updates", "save_steps saving_steps", "in updates"),
    Names("trainer.max_steps", "max_update", "max_steps max_train_steps", "in updates"),
    Names("trainer.max_epochs", "max_epoch", "num_train_epochs"),
    Names("trainer.max_time", "stop_time_hours", "", "as days:hours:minutes:seconds"),
    Names("trainer.precision", "fp16 bf16", "fp16 bf16", "16-mixed or bf16-mixed"),
    Names("trainer.gradient_clip_val", "clip_norm", "max_grad_norm"),
    Names("trainer.devices", "distributed_world_size nprocs_per_node", "", "of a node"),
    Names("trainer.strategy", "ddp_backend", "fsdp"),
    Names("trainer.log_every_n_steps", "log_interval", "logging_steps", "in updates"),
    Names("trainer.val_check_interval", "validate_interval_updates", "eval_steps", "in updates"),
    Names("trainer.default_root_dir", "save_dir", "output_dir"),
    Names("trainer.logger", "tensorboard_logdir", "report_to", "a class"),
    Names("trainer.logger.project", "wandb_project"),
)


DATA_WORDS = {
    "data.corpus": "path dataset dataset_path datasets data_dir data_path train train_dir train_path train_data "
    "train_data_dir audio audio_dir audio_path corpora corpus_dir input_cfg manifest manifest_path manifest_filepath "
    "tarred_audio_filepaths shar_path shards urls folder",
    "data.corpus='{NAME: {path: PATH, weight: 2}, …}'": "weight weights corpus_weights dataset_weights "
    "multi_corpus_sampling_weights",
    "data.alpha": "temperature sampling_temperature",
    "data.batch_seconds": "max_duration batch_duration batch_size",
    "data.augmentations": "augment augmentation noise noise_path noise_dir musan",
}
"""Options of the data here, and what they are called in lhotse, NeMo and others, or guessed to be; with spaces."""


def hint(typed: str) -> str | None:
    """Returns the equivalent of an unknown option that fairseq or transformers has; None if neither has it.

    Args:
        typed: With or without its group, with dashes or underscores: `--optimization.max_update`, `mask-prob`.
    """
    whole = typed.lstrip("-").replace("-", "_").replace(".init_args", "")
    name = whole.rpartition(".")[2]
    for names in TABLE:
        owners = " and ".join(_owners(names, name))
        if owners and whole != names.here and not _is_typo(whole, names.here):
            note = f" ({names.note})" if names.note else ""
            return f"`{name}` of {owners} is `{names.here}` here{note}."
    group = whole.partition(".")[0] if "." in whole else ""
    if group in ("", "data", "dataset", "datasets", "task"):
        return next((f"Here it is `{here}`." for here, words in DATA_WORDS.items() if name in words.split()), None)
    return None


def _is_typo(typed: str, here: str) -> bool:
    """Whether an option is only misspelt, such as `trainr.max_steps`."""
    first, first_here = typed.partition(".")[0], here.partition(".")[0]
    last, last_here = typed.rpartition(".")[2], here.rpartition(".")[2]
    return last == last_here and first != first_here and bool(did_you_mean(first, [first_here]))


def _owners(names: Names, name: str) -> Iterator[str]:
    if name in names.fairseq.split():
        yield "fairseq"
    if name in names.hugging_face.split():
        yield "transformers"


def markdown() -> str:
    """Returns the table as docs/names.md has it."""

    def code(words: str) -> str:
        return ", ".join(f"`{word}`" for word in words.split())

    rows = (f"| `{n.here}` | {code(n.fairseq)} | {code(n.hugging_face)} | {n.note} |" for n in TABLE)
    return "\n".join(["| here | fairseq | transformers | |", "|---|---|---|---|", *rows])
