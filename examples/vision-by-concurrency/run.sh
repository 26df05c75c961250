#!/usr/bin/env bash
# A vision-language model as one worker, as prefill + decode, and as encode + prefill + decode, by concurrency.
# Later flags win: ./run.sh --scale 1 --concurrency 1,8,16,32,64 --num-requests 200 --blocks 5 is the whole size.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
tercet compare --arch aggregated=1A --arch pd=1P1D --arch epd=examples/vision-by-concurrency/topology.yaml --allow-unequal \
    --engine virtual --gpu a100 --random-weights examples/models/llava-mistral-7b.json \
    --workload images --scale 0.1 --turns 1 --concurrency 1,8,32 --num-requests 32 --blocks 3 --keep warm "$@"
