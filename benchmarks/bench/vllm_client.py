"""`vllm bench serve`, started so that it runs where only a CPU build of torch is installed.

Run by the interpreter of vLLM's environment; its arguments are those of `vllm bench serve`. At its end it prints the
processor seconds that it used after everything was imported.
"""

import argparse
import importlib
import time

import torch

# vLLM imports torchvision, whose wheel expects operators that a CPU build of torch lacks; nothing here calls them.
_OPERATORS = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for operator in ("nms", "qnms"):
    _OPERATORS.define(f"{operator}(Tensor d, Tensor s, float t) -> Tensor")  # type: ignore[no-untyped-call]

if __name__ == "__main__":
    serve = importlib.import_module("vllm.benchmarks.serve")
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    options = parser.parse_args()
    begin = time.process_time()
    serve.main(options)
    print(f"load-cpu-seconds {time.process_time() - begin:.3f}")
