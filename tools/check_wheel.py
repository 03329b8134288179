"""Installs the wheel beside releases of torch and runs tools/smoke.py there:

    python -m tools.check_wheel [--wheel dist/...whl] [--torch 2.10 2.11] [--python python3.10 python3.13]

By default: every minor release of torch from 2.10 on that pip finds, with the first interpreter; and every interpreter
from 3.10 to 3.14 on the path, with the newest of them. Each in an environment of its own, made and removed again.

Releases that come for CUDA only want gigabytes of its libraries to be imported. Of such a wheel everything but the
libraries for CUDA is unpacked, and in the place of those stand libraries of the same names whose functions do nothing:
the part of torch that is for processors calls a few, as it starts.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.wheel import ROOT

NEEDED = "typing-extensions filelock sympy mpmath networkx jinja2 markupsafe fsspec setuptools".split()
FOR_CUDA = re.compile(r"lib(torch_cuda|torch_cuda_linalg|c10_cuda|torch_nvshmem|caffe2_nvrtc)\.so")
SYSTEM = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2"]
SYSTEM += ["libstdc++.so.6", "libgcc_s.so.1"]
ABSENT = re.compile(r"lib(cu\w+|nv\w+|nccl|nvToolsExt)(-\w+)?\.so|" + FOR_CUDA.pattern)


def run(*command: object, **settings) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **settings)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def minor_releases(pip: list[str]) -> list[str]:
    """The newest patch release of every minor one from 2.10 on, oldest first."""
    listed = run(*pip, "index", "versions", "torch")
    newest: dict[tuple[int, int], tuple[int, str]] = {}
    for version in re.findall(r"\b\d+\.\d+\.\d+\b", listed):
        major, minor, patch = map(int, version.split("."))
        if (major, minor) >= (2, 10):
            newest[major, minor] = max(newest.get((major, minor), (-1, "")), (patch, version))
    return [version for _, (_, version) in sorted(newest.items())]


def interpreters() -> list[str]:
    return [path for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]


def dynamic_symbols(library: Path | str) -> list[tuple[str, str, bool]]:
    """(name, version or "", whether it is defined there)"""
    symbols = []
    for line in run("readelf", "--dyn-syms", "-W", library).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[4] in ("GLOBAL", "WEAK", "UNIQUE"):
            name, _, version = fields[7].partition("@")
            here = fields[6] != "UND"
            if here or fields[4] == "GLOBAL":  # the others may be missing
                symbols.append((name, version.strip("@"), here))
    return symbols


def stand_in(lib: Path) -> None:
    """For every library that those of the folder need and that is not there, one that has what they look for in it."""
    absent: set[str] = set()
    defined: set[str] = set()
    missing: set[tuple[str, str]] = set()
    versions: dict[str, list[str]] = {}  # of each library
    for library in sorted(lib.glob("*.so*")):
        absent.update(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", library)))
        for block in re.split(r"File: ", run("readelf", "-VW", library))[1:]:
            file = block.split()[0]
            versions.setdefault(file, []).extend(re.findall(r"Name: (\S+)", block))
        for name, version, here in dynamic_symbols(library):
            defined.add(name) if here else missing.add((name, version))
    for system in SYSTEM:
        path = run("g++", f"-print-file-name={system}").strip()
        if os.path.exists(path):
            defined |= {name for name, _, here in dynamic_symbols(path) if here}
    absent = {name for name in absent if ABSENT.match(name) and not (lib / name).exists()}
    for name in absent:
        nodes = sorted(set(versions.get(name, [])))
        held = [(s, v) for s, v in sorted(missing) if s not in defined and not s.startswith(("Py", "_Py"))]
        held = [(s, v) for s, v in held if v in nodes or not v]
        # Functions that return the address of zeros, whose lowest byte is 0 too, before zeros: for what is an object;
        # but types know their names.
        # Constructors make objects of a class without a function, which may be asked for its type.
        types = [s for s, _ in held if s.startswith("_ZTI")]
        makers = [s for s, _ in held if re.match(r"_ZN.*C[12]E", s)]
        lines = [".text", *(f".weak {s}\n{s}:" for s in makers), "leaq table(%rip), %rax\nmovq %rax, (%rdi)\nret"]
        lines += [f".weak {s}\n{s}:" for s, _ in held if s not in types and s not in makers]
        lines += ["idle: leaq zeros(%rip), %rax\nret", ".zero 4096"]
        lines += [".bss", ".balign 4096", "zeros: .zero 4096", ".data"]
        kind = "_ZTVN10__cxxabiv117__class_type_infoE+16"
        lines += [f'nothing: .quad {kind}, 1f\n1: .asciz "7Nothing"\n.balign 8']
        lines += [".quad 0, nothing\ntable: .rept 256\n.quad idle\n.endr"]
        lines += [f'.weak {s}\n{s}: .quad {kind}, 1f\n1: .asciz "{s[4:]}"\n.balign 8' for s in types]
        (lib / "absent.s").write_text("\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""]))
        script = "".join(f"{node} {{ {' '.join(f'{s};' for s, v in held if v == node)} }};\n" for node in nodes)
        (lib / "absent.map").write_text(script)
        command = ["g++", "-shared", "-nostdlib", f"-Wl,-soname,{name}", lib / "absent.s", "-o", lib / name]
        command += ["-Wl,--no-as-needed", "-lstdc++"]  # for the vtable of types
        run(*command, *([f"-Wl,--version-script={lib / 'absent.map'}"] if nodes else []))


def install_torch(python: Path, pip: list[str], version: str, work: Path) -> str:
    """Into the environment; says of which kind it is."""
    run(*pip, "download", "--no-deps", "--dest", work, f"torch=={version}", env={**os.environ, "PIP_NO_CACHE_DIR": "1"})
    (wheel,) = work.glob("torch-*.whl")
    run(*pip, "install", *NEEDED)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.startswith(("torch/include/", "torch/bin/protoc"))]
        for_cuda = any(FOR_CUDA.match(Path(name).name) for name in names)
        archive.extractall(site, [name for name in names if not FOR_CUDA.match(Path(name).name)])
    wheel.unlink()
    if for_cuda:
        stand_in(site / "torch" / "lib")
        native = site / "torch" / "_native" / "__init__.py"
        if native.exists():  # it replaces operators of CUDA's, which are not there
            native.write_text(native.read_text().replace("registry._register_all_overrides()", "pass"))
    return "without CUDA's libraries" if for_cuda else "for CPUs"


def check(interpreter: str, version: str, wheel: Path, options: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(interpreter, "-m", "venv", work / "venv")
        python = work / "venv" / "bin" / "python"
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        kind = install_torch(python, [*pip], version, work)
        run(*pip, "install", "--no-deps", wheel)
        said = run(python, *options, ROOT / "tools" / "smoke.py", cwd=work)
        return f"{said.strip().splitlines()[-1]} ({kind})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--torch", nargs="+", default=[])
    parser.add_argument("--python", nargs="+", default=[])
    arguments = parser.parse_args()
    wheels = [arguments.wheel] if arguments.wheel else sorted((ROOT / "dist").glob("torchconv-*_x86_64.whl"))
    if not wheels:
        raise SystemExit("no wheel in dist/: make wheel")
    pythons = arguments.python or interpreters() or [sys.executable]
    releases = arguments.torch or minor_releases([pythons[0], "-m", "pip", "--disable-pip-version-check"])
    pairs = [(pythons[0], release) for release in releases] + [(python, releases[-1]) for python in pythons[1:]]
    failed = 0
    for python, release in pairs:
        try:
            print(check(python, release, wheels[-1].resolve(), []), flush=True)
        except Exception as error:
            failed += 1
            print(f"{python}, torch {release}: FAILED\n{error}", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
