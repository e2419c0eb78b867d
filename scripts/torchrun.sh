#!/usr/bin/env bash
# Trains with one process for each GPU of this machine:
#
#     scripts/torchrun.sh --config configs/wav2vec2_base.yaml --config configs/trainer/ddp.yaml
#
# On several machines, start it on each, with a rank from 0 and the name of the first:
#
#     NUM_NODES=2 NODE_RANK=0 MASTER_ADDR=first scripts/torchrun.sh --config configs/wav2vec2_base.yaml --config configs/trainer/multi_node.yaml
#
# RUN_DIR   folder of the run; the same folder resumes from its last checkpoint (runs/torchrun)
# RESTARTS  how often all processes are restarted after one has failed (3)
# GPUS      processes per machine (its GPUs)
set -euo pipefail

run_dir=${RUN_DIR:-runs/torchrun}
nodes=${NUM_NODES:-1}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

# The number of nodes and devices comes last, because the last option counts.
exec torchrun \
  --nnodes="$nodes" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$gpus" \
  --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${MASTER_PORT:-29500}" \
  --max-restarts="${RESTARTS:-3}" \
  -m w2vlab fit --trainer.default_root_dir="$run_dir" "$@" \
  --trainer.num_nodes="$nodes" --trainer.devices="$gpus" --ckpt_path=last
