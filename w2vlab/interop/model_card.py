"""The model card of an exported folder, `README.md`: what is known of the model, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from w2vlab import __version__
from w2vlab.formats import PublishedModel
from w2vlab.formats.files.hub import PREFIX, is_hub_name, may_be_hub_name
from w2vlab.interop.objective_names import objective_line
from w2vlab.interop.run_facts import RunFacts
from w2vlab.utils.messages import count, duration, one_line

_AUTO = {"ctc": "AutoModelForCTC", "pretraining": "AutoModelForPreTraining", "plain": "AutoModel"}


def kind_of(model: PublishedModel, plain: bool = False) -> str:
    """Returns `ctc`, `pretraining` or `plain`: a fine-tuned model, one with its quantizer, or the network alone."""
    if plain:
        return "plain"
    if _class(model) == "TeacherPrediction" and model.vocabulary is None:
        return "plain"
    if model.vocabulary is not None:
        return "ctc"
    return (
        "plain" if "quantizer" in model.missing or _class(model, "quantizer") == "IdentityQuantizer" else "pretraining"
    )


def model_card(model: PublishedModel, facts: RunFacts, plain: bool = False) -> str:
    """Returns the text of a model card.

    Facts that are not known are left out; language and license are left to the author.

    Args:
        model: The model, with all options in its configuration.
        facts: What is known of its training.
        plain: Whether the folder has the network alone.
    """
    kind = kind_of(model, plain)
    parts = [_front_matter(kind, facts), f"# {_title(model)}\n", _description(model, kind, facts)]
    parts += [_section("Training", _training(facts, model)), _section("Figures", _figures(facts))]
    parts += [_section("How to load it", _loading(kind))]
    return "\n".join(part for part in parts if part)


def _front_matter(kind: str, facts: RunFacts) -> str:
    task = "automatic-speech-recognition" if kind == "ctc" else "feature-extraction"
    tags = ["speech", "audio", "wav2vec2", "w2vlab", *(["pretraining"] if kind == "pretraining" else [])]
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        *_base_model(facts),
        "# Add the language of the data and the license that you choose, for example:",
        "# language: ru",
        "# license: cc-by-4.0",
        "---\n",
    ]
    return "\n".join(lines)


def _base_model(facts: RunFacts) -> list[str]:
    """Returns the field by which the Hub links a model to the one that it continues."""
    name = (facts.source or "").removeprefix(PREFIX).partition("@")[0]
    is_linked = facts.source is not None and is_hub_name(facts.source) and may_be_hub_name(name)
    return [f"base_model: {name}"] if is_linked else []


def _title(model: PublishedModel) -> str:
    return f"{_class(model)} with {_class(model, 'context')}"


def _description(model: PublishedModel, kind: str, facts: RunFacts) -> str:
    encoder, context = (_options(model, part) for part in ("encoder", "context"))
    layers = context.get("num_layers") or len(context.get("layers") or ())
    size = f"{layers} layers of width {context['model_dim']}" if "model_dim" in context else count(layers, "layer")
    what = {
        "ctc": "A speech recognition model, fine-tuned by connectionist temporal classification (CTC).",
        "pretraining": "A pretrained speech model with its quantizer: for features, codes, fine-tuning, pretraining.",
        "plain": "A pretrained speech model without a quantizer, for features and fine-tuning.",
    }[kind]
    parameters = sum(model.weights[name].numel() for name in model.weights if not name.startswith("teacher."))
    norm = (
        "each waveform is brought to zero mean and unit variance" if encoder.get("normalize_waveform") else "as it is"
    )
    lines = [
        f"{what} It was written by w2vlab {__version__}.\n",
        f"* {_plain(objective_line(model, facts.pretraining))}",
        f"* Context network: {_class(model, 'context')}, {size}",
        *_quantizer_line(model, kind),
        f"* Parameters: {parameters:,}",
        f"* Input: mono audio at 16 kHz, values in [-1, 1], {norm}",
    ]
    if model.vocabulary is not None:
        lines.append(f"* Output: {count(len(model.vocabulary) - 1, model.vocabulary.units[:-1])} and the blank of CTC")
    if model.origin.format != "w2vlab":
        architecture = f" ({_plain(model.origin.architecture)})" if model.origin.architecture else ""
        lines.append(f"* Weights: from a file of {model.origin.format}{architecture}")
    return "\n".join(lines) + "\n"


def _quantizer_line(model: PublishedModel, kind: str) -> list[str]:
    if kind != "pretraining":
        return []
    options = _options(model, "quantizer")
    known = {"num_codebooks", "codebook_size"} <= options.keys()
    size = f", {options['num_codebooks']} x {options['codebook_size']} entries" if known else ""
    return [f"* Quantizer: {_class(model, 'quantizer')}{size}"]


def _training(facts: RunFacts, model: PublishedModel) -> str:
    lines = []
    if facts.source is not None:
        parts = f" ({', '.join(map(_plain, facts.loaded))})" if facts.loaded else ""
        lines.append(f"* Continued from: {_plain(facts.source)}{parts}; what follows is this run alone")
    if facts.corpora:
        lines.append(f"* Data: {', '.join(map(_plain, facts.corpora))}")
    if facts.updates is not None:
        lines.append(f"* Updates: {facts.updates:,}")
    if facts.audio_hours is not None:
        lines.append(f"* Audio: {facts.audio_hours:,.2f} hours, all epochs together")
    if facts.batch_seconds is not None:
        lines.append(f"* Audio of an update: {facts.batch_seconds:,.1f} s")
    if facts.seconds is not None:
        device = f" on {_plain(facts.device)}" if facts.device else ""
        lines.append(f"* Time: {duration(facts.seconds)}{device}")
    if facts.versions:
        lines.append(f"* Versions: {', '.join(f'{name} {number}' for name, number in facts.versions.items())}")
    text = "".join(f"{line}\n" for line in lines)
    if facts.command is not None:
        text += f"\nThe command of the run:\n\n    {facts.command}\n"
    return text


def _figures(facts: RunFacts) -> str:
    if not facts.figures:
        return ""
    rows = "".join(f"| {label} | {value} |\n" for label, value in facts.figures.items())
    on = (
        f"\nPhones and codes were measured on {_plain(facts.evaluated_on)} by `w2vlab evaluate`.\n"
        if facts.evaluated_on
        else ""
    )
    return f"| figure | value |\n|---|---|\n{rows}{on}"


def _loading(kind: str) -> str:
    auto = _AUTO[kind]
    compute = {
        "ctc": "    logits = model(**inputs).logits  # (1, T, units)",
        "pretraining": "    contexts = model.base_model(**inputs).last_hidden_state  # (1, T, D)",
        "plain": "    contexts = model(**inputs).last_hidden_state  # (1, T, D)",
    }[kind]
    lines = [
        "With transformers:\n",
        "```python",
        "import torch",
        f"from transformers import AutoFeatureExtractor, {auto}",
        "",
        f'model = {auto}.from_pretrained("FOLDER").eval()',
        'extract = AutoFeatureExtractor.from_pretrained("FOLDER")',
        'inputs = extract(waveform, sampling_rate=16_000, return_tensors="pt")  # waveform: 1-D, at 16 kHz',
        "with torch.no_grad():",
        compute,
        "```\n",
        "With w2vlab:\n",
        "```python",
        "import w2vlab",
        "",
        'model = w2vlab.load("FOLDER")',
        "contexts = model.features(waveform)  # (1, T, D)",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _class(model: PublishedModel, part: str | None = None) -> str:
    node: Mapping[str, Any] = model.config if part is None else model.config["init_args"].get(part) or {}
    return _plain(str(node.get("class_path", "")).rpartition(".")[2])


def _options(model: PublishedModel, part: str) -> Mapping[str, Any]:
    options = (model.config["init_args"].get(part) or {}).get("init_args")
    return options if isinstance(options, dict) else {}


def _plain(text: str) -> str:
    """Returns text of a file as one line without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text, 300))
