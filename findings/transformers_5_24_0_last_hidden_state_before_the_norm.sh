#!/usr/bin/env bash
# transformers 5.24.0: the last of `hidden_states` is not `last_hidden_state` in speech models with a norm before each block.
#
# Packages   transformers 5.24.0, torch 2.14.1, numpy 2.4.6; seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   `hidden_states[-1]` equals `last_hidden_state`, as it does for the layouts of wav2vec 2.0, HuBERT and WavLM
#            BASE, so that a probe of "the last layer" means the same with either.
# Actual     With `do_stable_layer_norm=True` (the layout of the LARGE models and of XLS-R), and in Wav2Vec2Conformer
#            always, `hidden_states[-1]` is the sum before the encoder's final norm. Its scale differs from that of the
#            features that the model was trained to give, and nothing in shape or type tells them apart.
# Seen       Wav2Vec2Model, BASE's layout: equal
#            HubertModel, BASE's layout: equal
#            WavLMModel, BASE's layout: equal
#            Wav2Vec2Model, LARGE's layout: other; equal after `encoder.layer_norm`
#            HubertModel, LARGE's layout: other; equal after `encoder.layer_norm`
#            WavLMModel, LARGE's layout: other; equal after `encoder.layer_norm`
#            Wav2Vec2ConformerModel: other; equal after `encoder.layer_norm`
# Workaround `last_hidden_state` for the features of the last layer, or `model.encoder.layer_norm(hidden_states[-1])`.
#
# Downloads about 250 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.24.0 torch==2.14.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON' 2>/dev/null
from importlib.metadata import version

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
MODELS = {Wav2Vec2Model: Wav2Vec2Config, HubertModel: HubertConfig, WavLMModel: WavLMConfig}


@torch.no_grad()
def compare(title, model):
    """Compares the last hidden state with the last of all hidden states; returns whether they are equal."""
    torch.manual_seed(1)
    output = model.eval()(torch.randn(1, 16_000), output_hidden_states=True)
    last = output.hidden_states[-1]
    if torch.equal(last, output.last_hidden_state):
        print(f"{title}: equal")
        return True
    torch.testing.assert_close(model.encoder.layer_norm(last), output.last_hidden_state)
    print(f"{title}: other; equal after `encoder.layer_norm`")
    return False


print("transformers", version("transformers"), "torch", torch.__version__)
for stable, layout in ((False, "BASE's layout"), (True, "LARGE's layout")):
    for model, config in MODELS.items():
        torch.manual_seed(0)
        norm = "layer" if stable else "group"
        made = model(config(do_stable_layer_norm=stable, feat_extract_norm=norm, **SIZES))
        assert compare(f"{model.__name__}, {layout}", made) is not stable, "the behavior has changed"
torch.manual_seed(0)
conformer = Wav2Vec2ConformerModel(Wav2Vec2ConformerConfig(**SIZES))
assert not compare("Wav2Vec2ConformerModel", conformer), "the behavior has changed"
PYTHON
