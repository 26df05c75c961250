"""From a written function to one that Python calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from llvmlite import binding, ir

from tercet.engine.jit.emitter import F32, PTR, Emitter


class Compiled:
    """Machine code for this CPU. `call` takes addresses, integers and floats as written, and releases the GIL."""

    def __init__(self, emitter: Emitter) -> None:
        """Raise RuntimeError when LLVM rejects what was written: a fault of the emitter's user."""
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        emitter.b.ret_void()
        emitter.module.triple = binding.get_default_triple()
        module = binding.parse_assembly(str(emitter.module))
        module.verify()
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
        )
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(module, passes)
        self._engine = binding.create_mcjit_compiler(module, machine)  # owns the code
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, *(_ctype(argument.type) for argument in emitter.args))
        self.call: Callable[..., None] = prototype(self._engine.get_function_address(emitter.module.name))


def _ctype(kind: ir.Type) -> type[ctypes.c_void_p] | type[ctypes.c_int64] | type[ctypes.c_float]:
    if kind == PTR:
        return ctypes.c_void_p
    return ctypes.c_float if kind == F32 else ctypes.c_int64


def cpu_features() -> frozenset[str]:
    """Return the names of this CPU's instruction set extensions, as LLVM calls them (avx2, fma, avx512f, ...)."""
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
