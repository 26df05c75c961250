#!/usr/bin/env bash
# Serves topology.yaml, sends 100 prompts of 2000 tokens for 2000 more, 32 at once, and prints the benchmark's block.
# Arguments go to `tercet bench`: a smaller run is ./run.sh --scale 0.1
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
tercet serve examples/eight-plus-eight-ranks/topology.yaml --detach
trap 'tercet stop eight-plus-eight' EXIT
tercet bench http://127.0.0.1:10001 --workload 2000/2000 --concurrency 32 --num-requests 100 "$@"
