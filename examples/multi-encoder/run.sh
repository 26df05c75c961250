#!/usr/bin/env bash
# Four encoders and one A against five A on the same five devices, one request at a time being rare: 0.5 requests a second and more.
# Every picture is new: with a few in rotation one worker's prefix cache holds them all, and five caches each too few.
# Later flags win: ./run.sh --qps 0.5 --num-requests 32 --blocks 5 is the whole size.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
tercet compare --arch 5A=5A#aggregated --arch 4E1A=examples/multi-encoder/topology.yaml \
    --engine virtual --gpu h100 --random-weights examples/models/llava-mistral-7b.json \
    --workload images --image-pool 0 --scale 0.05 --turns 1 --qps 2,8,32 --num-requests 32 --blocks 3 --keep warm "$@"
