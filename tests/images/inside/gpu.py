"""In trainer-gpu, without a GPU: a kernel is compiled for an H100, and a launcher as Triton compiles one."""

import sysconfig
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.build import compile_module_from_src

MODULE = """\
#include <Python.h>
static struct PyModuleDef made = {PyModuleDef_HEAD_INIT, "probe", 0, -1, 0};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&made); }
"""


@triton.jit
def double(x, n, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)


source = triton.compiler.ASTSource(double, {"x": "*fp32", "n": "i32", "block": "constexpr"}, {(2,): 128})
assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
assert compile_module_from_src(MODULE, "probe")
assert Path(sysconfig.get_path("include"), "Python.h").exists()
assert torch.version.cuda
assert torch.distributed.is_nccl_available()
