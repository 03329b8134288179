"""MNIST and CIFAR as torchvision reads them, and one sentence on what keeps them from being read."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from train.errors import InputError, one_line

Images = tuple[Tensor, Tensor]

# What torchvision does not check itself: MD5 of the files that it reads, as its own are of what they are unpacked from.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _check_mnist(folder: Path) -> None:
    """Raises an `InputError` unless the files of MNIST are those."""
    packed = [name for name in MNIST_FILES if not (folder / name).exists() and (folder / f"{name}.gz").exists()]
    if packed:
        raise InputError(f"the MNIST data in '{folder}' is still compressed: unpack it by gunzip -k {folder}/*.gz")
    for name, digest in MNIST_FILES.items():
        if not (folder / name).exists():
            raise InputError(f"the MNIST data is incomplete: there is no '{folder / name}'")
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != digest:
            raise InputError(f"the MNIST data is damaged: '{folder / name}' has the checksum {found}, not {digest}")


def read_torchvision(dataset: str, folder: str, root: str, download: bool) -> tuple[Images, Images]:
    """Both halves of a torchvision data set, in its own shape, or an `InputError` that says what is wrong."""
    try:
        from train._torchvision import torchvision
    except ModuleNotFoundError as error:
        raise InputError(f"the data set {dataset} is read by torchvision, which is not installed") from error
    read = getattr(torchvision.datasets, dataset)
    if download:
        try:
            read(root, download=True)
        except Exception as error:  # Of networks and of disks.
            raise InputError(f"the {dataset} data could not be fetched into '{root}': {one_line(error)}") from error
    try:
        if not Path(root, folder).is_dir():
            raise InputError(
                f"no {dataset} data in '{root}' (looked for '{folder}' there): "
                "name its directory with --data.root, or fetch it with --data.download true"
            )
        if dataset == "MNIST":
            _check_mnist(Path(root, folder))
        halves = [read(root, train=train) for train in (True, False)]
        images = [torch.as_tensor(half.data) for half in halves]
        labels = [torch.as_tensor(half.targets) for half in halves]
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"the {dataset} data cannot be read: no permission to open '{error.filename}'") from error
    except Exception as error:  # What a reader raises on bytes that are not what it expects could be anything.
        raise InputError(f"the {dataset} data in '{root}' is incomplete or damaged: {one_line(error)}") from error
    for some, their in zip(images, labels, strict=True):
        if len(some) != len(their):
            raise InputError(f"the {dataset} data in '{root}' is damaged: {len(some)} images but {len(their)} labels")
    return (images[0], labels[0]), (images[1], labels[1])
