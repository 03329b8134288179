"""Loading of the compiled library and what it refuses; what a source archive and an installation hold."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import torchconv
from torchconv import _library

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(torchconv.__file__).parent
ADVICE = "pip install"


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "CXX": "false"}  # nothing here may compile
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package without its compiled library."""
    ignored = shutil.ignore_patterns("_C*", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "torchconv", ignore=ignored))


def import_error(package: Path) -> str:
    """The last line that `import torchconv` prints."""
    result = python("-c", "import torchconv", cwd=package.parent)
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


def test_no_compiled_library(package):
    message = import_error(package)
    assert message.startswith(f"ImportError: torchconv has no compiled library in {package}: run `{ADVICE} .`")
    assert message.endswith("`python setup.py build_ext --inplace` in torchconv's checkout")


def test_damaged_library(package):
    (package / "_C.abi3.so").write_bytes(b"no library")
    message = import_error(package)
    assert message.startswith("ImportError: torchconv's compiled library does not load (")
    assert ADVICE in message


def test_older_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"^torchconv needs torch 2\.10 or later, got torch 2\.9\.1\+cpu$"):
        _library.load("torchconv", PACKAGE)


def test_releases_in_order():
    assert _library.release("2.9.1") < _library.release("2.10.0a0+git1") == _library.OLDEST < _library.release("3.0")


def test_the_library_uses_the_stable_abi_alone():
    library = next(PACKAGE.glob("_C*.so")).read_bytes()
    for namespace in (b"_ZN2at", b"_ZNK2at", b"_ZN3c10", b"_ZNK3c10", b"_ZN5torch"):
        assert namespace not in library  # no symbol of C++ that a release of torch may change


# What manylinux_2_28 has at the most. libgcc's own versions end long before.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}


@pytest.fixture(scope="module")
def undefined() -> list[tuple[str, str]]:
    """Symbols that the compiled library takes from others, with their versions, which may be empty."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    command = ["objdump", "--dynamic-syms", str(next(PACKAGE.glob("_C*.so")))]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"\*UND\*\s+\S+\s+(?:\(?([A-Z]+_[\d.]+)\)?\s+)?(?:Base\s+)?(\S+)$", listing, re.MULTILINE)
    return [(name, version) for version, name in found]


def test_symbols_are_as_old_as_manylinux_2_28(undefined):
    assert undefined
    for name, version in undefined:
        if version:
            library, _, number = version.partition("_")
            assert tuple(map(int, number.split("."))) <= NEWEST[library], f"{name}@{version}"


def test_symbols_are_of_the_stable_interfaces_alone(undefined):
    # torch's C functions; Python's, which abi3 limits; what the limited interface's macros come to, which abi3 keeps.
    own = re.compile(r"aoti_torch_\w+|torch_\w+|Py\w+|_Py_NoneStruct|_Py_Dealloc|_PyWeakref_RefType")
    weak = {"__gmon_start__", "_ITM_registerTMCloneTable", "_ITM_deregisterTMCloneTable", "__cxa_finalize"}
    weak.add("MKL_Set_Num_Threads_Local")  # of torch's MKL, where it has one
    strays = [name for name, version in undefined if not version and name not in weak and not own.fullmatch(name)]
    assert not strays  # C++ of some library, whatever its version: it may be another's tomorrow


def test_library_shows_its_start_alone():
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    command = ["objdump", "--dynamic-syms", str(next(PACKAGE.glob("_C*.so")))]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r" \.\w+\s+\S+\s+(?:\S+\s+)?(\S+)$", listing, re.MULTILINE) == ["PyInit__C"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that nothing is written into it; skips where the tests run on an installation."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("not a checkout")
    copy = tmp_path_factory.mktemp("checkout")
    for directory in ("torchconv", "csrc", "requirements", "tests", "train"):
        if (ROOT / directory).is_dir():
            ignored = shutil.ignore_patterns("_C*", "__pycache__")
            shutil.copytree(ROOT / directory, copy / directory, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        if (ROOT / file).is_file():
            shutil.copy(ROOT / file, copy)
    return copy


def test_source_archive_holds_what_a_build_needs(checkout):
    result = python("setup.py", "--quiet", "sdist", "--dist-dir", "dist", cwd=checkout)
    assert result.returncode == 0, result.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    top = f"torchconv-{torchconv.__version__}"
    assert archive.name == f"{top}.tar.gz"
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    needed = [*(checkout / "csrc").rglob("*.*"), *(checkout / "torchconv").rglob("*.py")]
    assert {str(path.relative_to(checkout)) for path in needed} <= held
    assert {"setup.py", "pyproject.toml", "LICENSE", "torchconv/py.typed"} <= held
    assert not [name for name in held if name.endswith((".so", ".o"))]
    assert not [name for name in held if name.startswith(("tests/", "train/", "benchmarks/"))]


def test_installation_holds_torchconv_alone(checkout):
    result = python("setup.py", "--quiet", "build_py", "--build-lib", "lib", cwd=checkout)
    assert result.returncode == 0, result.stderr
    held = {str(path.relative_to(checkout / "lib")) for path in (checkout / "lib").rglob("*") if path.is_file()}
    package = (checkout / "torchconv").rglob("*")
    assert held == {str(path.relative_to(checkout)) for path in package if path.suffix in (".py", ".typed")}
    assert {"torchconv/nn/conv.py", "torchconv/functional/__init__.py", "torchconv/autograd/__init__.py"} <= held


def test_requirements_are_the_extras(checkout):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer")
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["torch>=2.10"]
    pinned = set(re.findall(r"^([\w.-]+)==", (checkout / "requirements/constraints.txt").read_text(), re.MULTILINE))
    for extra, listed in project["optional-dependencies"].items():
        names = {re.split(r"[\[<>=]", name)[0] for name in listed}
        lines = (checkout / f"requirements/{extra}.txt").read_text().splitlines()
        required = {re.split(r"[\[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
        assert names - {"torchvision"} == required, extra  # torchvision goes without its dependencies: the Makefile's
        assert required <= pinned, extra


def test_version_is_written_once(checkout):
    result = python("setup.py", "--version", cwd=checkout)
    assert result.stdout.strip().splitlines()[-1] == torchconv.__version__
