"""Builds the compiled library torchconv._C; everything else about the package is in pyproject.toml."""

import os
from glob import glob
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

# The kernels pick their instruction set when the library loads (csrc/cpu/), so no -march here: one build runs on
# every x86-64. torch's headers are system headers: -Wall -Wextra then speaks of this project's files only.
COMPILE = [
    "-O3",
    "-std=c++20",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-g0",
    "-DPy_LIMITED_API=0x030A0000",
    *(f"-isystem{path}" for path in include_paths()),
]


# Of torch's libraries one alone: the operators use its C functions (csrc/torch.h), the same in every release.
LINK = ["-s", "-Wl,--as-needed"]

# For `make sanitize`: checks of addresses and undefined behaviour, or of threads; lines in what they say; and an
# optimisation that leaves the checks quick to compile. Python asks for -fwrapv, under which no overflow is one. libgomp
# is not to be seen through, so threads have another loop.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all", "-fno-wrapv"],
    "thread": ["-fsanitize=thread", "-DTORCHCONV_STD_THREADS"],
}
if sanitizer := os.environ.get("TORCHCONV_SANITIZER"):
    if sanitizer not in SANITIZERS:
        raise SystemExit(f"TORCHCONV_SANITIZER is '{sanitizer}': expected {' or '.join(SANITIZERS)}")
    checks = SANITIZERS[sanitizer]
    COMPILE = [
        *checks,
        *(flag for flag in COMPILE if flag not in ("-O3", "-g0")),
        "-O1",
        "-fexpensive-optimizations",  # or products and sums are not fused, on which quotients' last bits depend
        "-g1",
        "-fno-omit-frame-pointer",
    ]
    LINK = [checks[0]]


setup(
    ext_modules=[
        CppExtension(
            "torchconv._C",
            sorted(glob("csrc/**/*.cpp", recursive=True)),
            include_dirs=[str(Path(__file__).parent.resolve() / "csrc")],
            depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inl", recursive=True)),
            extra_compile_args={"cxx": COMPILE},
            extra_link_args=LINK,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
