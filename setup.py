"""Builds the compiled library torchconv._C; everything else about the package is in pyproject.toml."""

import os
from glob import glob
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

# The kernels pick their instruction set when the library loads (csrc/kernels/), so no -march here: one build runs on
# every x86-64. torch's headers are system headers: -Wall -Wextra then speaks of this project's files only.
COMPILE = [
    "-O3",
    "-std=c++20",
    "-fopenmp",
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


LINK = ["-fopenmp", "-s"]

# For `make sanitize`: checks of addresses and undefined behaviour, or of threads; lines in what they say; and an
# optimisation that leaves the checks quick to compile. Python asks for -fwrapv, under which no overflow is one. libgomp
# is not to be seen through, so threads have another loop.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all", "-fno-wrapv"],
    "thread": ["-fsanitize=thread", f"-I{Path(__file__).parent.resolve() / 'csrc' / 'thread_sanitizer'}"],
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


class Build(BuildExtension):
    """BuildExtension that leaves beside the library which torch it was built for; torchconv reads it before loading."""

    def finalize_options(self):
        super().finalize_options()
        # Apart for each torch: ninja does not see that system headers have changed.
        self.build_temp = os.path.join(self.build_temp, f"torch-{torch.__version__}")

    def build_extension(self, ext):
        built_with = Path(self.get_ext_fullpath(ext.name)).with_name("built_with.txt")
        if not built_with.is_file() or built_with.read_text() != torch.__version__:
            self.force = True
        super().build_extension(ext)
        built_with.write_text(torch.__version__)

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        Path("torchconv/built_with.txt").write_text(torch.__version__)

    def get_outputs(self):
        outputs = super().get_outputs()
        return outputs + [os.path.join(os.path.dirname(outputs[0]), "built_with.txt")] if outputs else outputs


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
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
