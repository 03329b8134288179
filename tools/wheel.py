"""Builds the wheel: python -m tools.wheel [--platform aarch64] [--dist dist]

One library for every torch and Python that pyproject.toml names, which auditwheel checks against manylinux_2_28. It
holds no library but its own: libtorch and libgomp are those of the torch that is there, and so is libstdc++.

Its name has a build tag, 0 and a digest of what it was compiled from, by which the Makefile knows whether it fits.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = "manylinux_2_28"  # what torch's own wheels ask for
LEFT_OUT = ("libtorch*.so", "libc10.so", "libgomp.so.1")


def digest(root: Path = ROOT) -> str:
    """Of all that decides what is compiled."""
    files = [root / "setup.py", *sorted(path for path in (root / "csrc").rglob("*") if path.is_file())]
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def fitting(folder: Path, machine: str) -> Path | None:
    """A wheel in the folder that holds what this checkout would compile."""
    wheels = sorted(folder.glob(f"torchconv-*-0{digest()}-cp310-abi3-*_{machine}.whl"))
    return wheels[-1] if wheels else None


def build(machine: str, dist: Path) -> Path:
    work = ROOT / "build" / f"wheel-{machine}"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(work / "temp")]
    command += ["bdist_wheel", "--dist-dir", str(work), "--build-number", f"0{digest()}"]
    command += ["--plat-name", f"linux_{machine}"]
    start = monotonic()
    environment = {**os.environ, "TORCHCONV_PLATFORM": machine, "PYTHONWARNINGS": "ignore"}  # of setuptools, on itself
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    seconds = monotonic() - start
    (raw,) = work.glob("*.whl")
    made = repair(raw, machine, work / "repaired")
    dist.mkdir(parents=True, exist_ok=True)
    wheel = Path(shutil.copy(made, dist))
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.2f} MB, built in {seconds:.0f} s")
    return wheel


def repair(raw: Path, machine: str, to: Path) -> Path:
    """The wheel, checked and named for its platform, in the folder `to`."""
    # auditwheel takes the names of another machine's platforms for mistakes, but finds the oldest that fits.
    own = machine == platform.machine()
    command = [sys.executable, "-m", "auditwheel", "repair", "--only-plat", "--wheel-dir", str(to)]
    command += ["--plat", f"{PLATFORM}_{machine}" if own else "auto", *(f"--exclude={name}" for name in LEFT_OUT)]
    repaired = subprocess.run([*command, str(raw)], cwd=ROOT, capture_output=True, text=True)
    if repaired.returncode:
        raise SystemExit(repaired.stdout + repaired.stderr)
    (made,) = to.glob("*.whl")
    oldest = made.stem.split("-")[-1]
    if _glibc(oldest) > _glibc(PLATFORM):
        raise SystemExit(f"{made.name} runs on {oldest} and later alone, expected {PLATFORM}:\n{repaired.stderr}")
    return made


def _glibc(tag: str) -> list[int]:
    """The version in the name of a platform: manylinux_2_28_aarch64 -> [2, 28]."""
    return [int(part) for part in tag.split("_")[1:3]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default=platform.machine(), help="x86_64 or aarch64; CXX compiles for it")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--fitting", action="store_true", help="build nothing: name the wheel there that fits, if any")
    arguments = parser.parse_args()
    if arguments.fitting:
        print(fitting(arguments.dist, arguments.platform) or "")
    else:
        build(arguments.platform, arguments.dist)


if __name__ == "__main__":
    main()
