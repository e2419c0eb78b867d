#!/usr/bin/env bash
# torch 2.14.1: a fused optimizer changes weights without counting it, so a backward pass after the step is wrong without an error.
#
# Packages   torch 2.14.1 (CPU); seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   An operation in place increments a tensor's version. A backward pass that needs the old value then raises "one of the
#            variables needed for gradient computation has been modified by an inplace operation", as after a step with `fused=False`.
# Actual     With `fused=True` the version stays as it was. The backward pass of a loss that was computed before the step uses the
#            weights after it, and returns a wrong gradient. Caches that check versions keep stale copies.
# Seen       AdamW, fused=False: version 0 to 2; error
#            AdamW, fused=True: version 0 to 0; gradient 0.495 in place of 1
#            Adam, fused=False: version 0 to 1; error
#            Adam, fused=True: version 0 to 0; gradient 0.500 in place of 1
#            SGD, fused=False: version 0 to 1; error
#            SGD, fused=True: version 0 to 0; gradient 0.500 in place of 1
#            Adagrad, fused=False: version 0 to 1; error
#            Adagrad, fused=True: version 0 to 0; gradient 0.500 in place of 1
# Workaround Finish all backward passes before the step; clear such caches by `register_optimizer_step_post_hook`.
#
# Downloads about 200 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy
"$folder/env/bin/python" - <<'PYTHON'
import torch

for name in ("AdamW", "Adam", "SGD", "Adagrad"):
    for fused in (False, True):
        weight = torch.nn.Parameter(torch.ones(1))
        frame = torch.ones(1, requires_grad=True)
        loss = (weight * frame).sum()  # its gradient with respect to the frame is the weight, 1
        optimizer = getattr(torch.optim, name)([weight], lr=0.5, fused=fused)
        weight.grad = torch.ones(1)
        before = weight._version
        optimizer.step()
        assert weight.item() < 0.6
        versions = f"version {before} to {weight._version}"
        try:
            loss.backward()
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            print(f"{name}, fused={fused}: {versions}; error")
            assert not fused
        else:
            print(f"{name}, fused={fused}: {versions}; gradient {frame.grad.item():.3f} in place of 1")
            assert fused and weight._version == before and frame.grad.item() == weight.item()
PYTHON
