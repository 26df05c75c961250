#!/usr/bin/env bash
# PD, PPD and replication over W1-W4 and a sweep of loads, two turns a conversation.
#   ./run.sh                     scaled down, on virtual GPUs, in minutes
#   ./run.sh --scale 1 --qps 1,2,4,8,16 --num-requests 120 --blocks 5 --max-num-batched-tokens 8192   whole size, virtual GPUs
#   ./run.sh real                W1 and W3, scaled to a sixteenth, on this machine's cores with SmolLM2-135M
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
if [ "${1:-}" = real ]; then
    shift
    exec tercet compare --modes replicated,pd,ppd --workload W1,W3 --scale 0.0625 --turns 2 --qps 0.5,1,2 \
        --num-requests 24 --blocks 3 "$@"
fi
exec tercet compare --arch replicated=2A#replicated --arch pd=1P1D --arch ppd=examples/pd-ppd-replication/topology.yaml \
    --engine virtual --gpu h100 --random-weights examples/models/llama-3.1-8b.json --ppd-threshold 16384 \
    --workload all --scale 0.125 --turns 2 --qps 8,16,32 --num-requests 24 --blocks 3 --keep warm "$@"
