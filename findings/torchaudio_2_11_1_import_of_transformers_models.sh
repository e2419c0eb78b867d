#!/usr/bin/env bash
# torchaudio 2.11.1: the importer of transformers' wav2vec 2.0 ignores four options that decide what the weights mean.
#
# Packages   torch 2.14.1, torchaudio 2.11.1, transformers 5.24.0; seen on 2026-11-29, Linux x86-64, Python 3.11.
# Expected   `import_huggingface_model(model)` gives a model with the outputs of `model`, as its documentation says and as
#            it does for the default options; or it raises, as it does for a class that it does not know.
# Actual     It reads neither `hidden_act`, `feat_extract_activation`, `layer_norm_eps` nor `add_adapter` of the
#            configuration. The import succeeds without a warning, and the model that it returns computes something else
#            (with an adapter: another number of frames, too).
# Seen       default options: 50 frames relative difference 0.0000
#            hidden_act relu: 50 frames relative difference 0.2760
#            feat_extract_activation relu: 50 frames relative difference 0.2380
#            layer_norm_eps 0.1: 50 frames relative difference 0.0597
#            add_adapter True: 50 frames in place of 7
# Workaround Compare these four options with their defaults (gelu, gelu, 1e-5, False) before the import.
#
# Downloads about 3 GB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchaudio==2.11.1 transformers==5.24.0
"$folder/env/bin/python" - <<'PYTHON'
import torch
import torchaudio
import transformers
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from transformers import Wav2Vec2Config, Wav2Vec2Model

print("torch", torch.__version__, "torchaudio", torchaudio.__version__, "transformers", transformers.__version__)
WAVEFORM = torch.sin(torch.arange(16_240) * 0.05)[None] + 0.1 * torch.randn(1, 16_240, generator=torch.manual_seed(0))


def compare(**options):
    """Returns the frames of both models, and the relative difference of their outputs if they have as many."""
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, conv_dim=[32] * 7, **options
    )
    theirs = Wav2Vec2Model(config).eval()
    for parameter in theirs.parameters():  # large enough that activations matter, as after training
        if parameter.dim() == 2:
            torch.nn.init.xavier_uniform_(parameter)
    with torch.inference_mode():
        wanted = theirs(WAVEFORM).last_hidden_state
        found, _ = import_huggingface_model(theirs).eval()(WAVEFORM)
    same = wanted.shape == found.shape
    difference = ((found - wanted).norm() / wanted.norm()).item() if same else None
    name = " ".join(f"{key} {value}" for key, value in options.items()) or "default options"
    print(f"{name}: {found.shape[1]} frames", f"relative difference {difference:.4f}" if same else f"in place of {wanted.shape[1]}")
    return difference


assert compare() < 1e-5, "the default options have changed"
assert compare(hidden_act="relu") > 0.01, "hidden_act has changed"
assert compare(feat_extract_activation="relu") > 0.1, "feat_extract_activation has changed"
assert compare(layer_norm_eps=0.1) > 0.01, "layer_norm_eps has changed"
assert compare(add_adapter=True) is None, "add_adapter has changed"
PYTHON
