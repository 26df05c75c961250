"""Floor 1: kernels that torch lacks, compiled for this CPU by LLVM when the engine starts. No compiler is needed."""
