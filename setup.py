"""Builds the compiled library torchconv._C; everything else about the package is in pyproject.toml.

Of torch its headers alone are used, so nothing here imports it: the library is linked to a stand-in of the name of
torch's library, and finds the real one where it is loaded. CXX names the compiler; one for another machine will do.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CXX = os.environ.get("CXX") or "g++"
PLATFORM = os.environ.get("TORCHCONV_PLATFORM") or platform.machine()  # what CXX compiles for: x86_64 or aarch64

# The kernels pick their instruction set when the library loads (csrc/cpu/), so no -march here: one build runs on
# every processor of the platform. torch's headers are system headers: warnings speak of this project's files only.
COMPILE = [
    "-std=c++20",
    "-fPIC",
    "-O3",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-DNDEBUG",
    "-DPy_LIMITED_API=0x030A0000",
]
# Nothing but the module's start is to be seen from outside: neither what is inlined of libstdc++ nor the operators.
LINK = ["-s", "-Wl,--version-script=csrc/exports.map", "-Wl,--gc-sections"]

# For `make sanitize`: checks of addresses and undefined behaviour, or of threads; lines in what they say; and an
# optimisation that leaves the checks quick to compile. libgomp is not to be seen through, so threads have another loop.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread", "-DTORCHCONV_STD_THREADS"],
}
if sanitizer := os.environ.get("TORCHCONV_SANITIZER"):
    if sanitizer not in SANITIZERS:
        raise SystemExit(f"TORCHCONV_SANITIZER is '{sanitizer}': expected {' or '.join(SANITIZERS)}")
    checks = SANITIZERS[sanitizer]
    COMPILE = [
        *checks,
        *(flag for flag in COMPILE if flag != "-O3"),
        "-O1",
        "-fexpensive-optimizations",  # or products and sums are not fused, on which quotients' last bits depend
        "-g1",
        "-fno-omit-frame-pointer",
    ]
    LINK = [checks[0]]

# To test the kernels of AVX-512 on a machine without: vectors of 64 bytes, in registers of 32. Never to be given away.
if os.environ.get("TORCHCONV_EMULATE_AVX512"):
    COMPILE += ["-DTORCHCONV_EMULATE_AVX512", "-Wno-psabi"]

# csrc/torch.h takes longer to read than most files that include it take to compile: it is compiled once.
BUILD_NINJA = """\
builddir = {folder}
cxx = {cxx}
flags = {flags}
rule compile
  command = $cxx -MMD -MF $out.d $flags $more -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $in
rule header
  command = $cxx -MMD -MF $out.d $flags -x c++-header $in -o $out
  depfile = $out.d
  deps = gcc
  description = csrc/torch.h
rule stand_in
  command = $cxx -shared -Wl,-soname,{torch} -x c /dev/null -o $out
  description = $out
rule link
  command = $cxx -shared {objects} -Wl,--no-as-needed {stand_in} {link} -o $out
  description = $out
build {stand_in}: stand_in
build {header}.gch: header {header}
{compile}
build {library}: link {objects} {stand_in} | csrc/exports.map
"""


def optimisation(source: str) -> str:
    """What takes the place of -O3, which is slower to compile: -O2 where that was measured to be as fast, as loops
    that are vectors by hand are, but for the depth-wise kernels; -O1 for processors before AVX2."""
    unit = Path(source).stem
    if sanitizer:
        return ""
    if "/baseline/" in source and PLATFORM == "x86_64":
        return "-O1"
    return "" if source.startswith("csrc/cpu/") and unit in ("avx512_bf16", "depthwise", "layers") else "-O2"


class Build(build_ext):
    """Compiles by ninja, which knows what changed and shows one line."""

    def build_extension(self, extension: Extension) -> None:
        torch = find_spec("torch")
        if torch is None or not torch.submodule_search_locations:
            raise SystemExit("torchconv is compiled with torch's headers: install torch, 2.10 or later")
        headers = Path(next(iter(torch.submodule_search_locations))) / "include"
        folder = Path(self.build_temp).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        objects = {source: f"{folder / source}.o" for source in extension.sources}
        library = Path(self.get_ext_fullpath(extension.name)).absolute()
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = [*COMPILE, "-Icsrc", f"-isystem{headers}", f"-isystem{sysconfig.get_path('include')}"]
        header = folder / "all_torch.h"
        if not header.exists():  # or all that includes it is compiled again
            header.write_text('#include "torch.h"\n')
        text = BUILD_NINJA.format(
            folder=folder,
            cxx=CXX,
            flags=shlex.join(flags),
            torch="libtorch_cpu.so",
            stand_in=folder / "libtorch_cpu.so",
            objects=" ".join(objects.values()),
            link=shlex.join(LINK),
            library=library,
            header=header,
            compile="\n".join(self.compile(source, made, header) for source, made in objects.items()),
        )
        (folder / "build.ninja").write_text(text)
        self.run_ninja(folder / "build.ninja", len(objects))

    def compile(self, source: str, made: str, header: Path) -> str:
        """One file's lines of build.ninja."""
        if '#include "cpu/kernels.h"' in Path(source).read_text() and source.startswith("csrc/cpu/"):
            # Kernels, which see nothing of torch.
            return f"build {made}: compile {source}\n  more = {optimisation(source)}"
        return f"build {made}: compile {source} | {header}.gch\n  more = {optimisation(source)} -include {header}"

    def run_ninja(self, file: Path, files: int) -> None:
        command = [shutil.which("ninja") or "ninja", "-f", str(file)]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        terminal = sys.stdout.isatty()  # where ninja shows one line, and writes over it
        if not terminal:
            command.append("--quiet")
            print(f"compiling {files} files with {CXX}", flush=True)
        start = monotonic()
        if subprocess.run(command, env={"NINJA_STATUS": "[%f/%t, %e s] ", **os.environ}).returncode:
            raise SystemExit("the compiled library could not be built: see above")
        if not terminal:
            print(f"compiled in {monotonic() - start:.0f} s", flush=True)


setup(
    ext_modules=[
        Extension(
            "torchconv._C",
            sorted(glob("csrc/**/*.cpp", recursive=True), key=lambda path: (not path.startswith("csrc/cpu/"), path)),
            depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inl", recursive=True)),
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
