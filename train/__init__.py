"""Training of small image classifiers with torchconv's layers: ``python -m train fit``."""

import contextlib

# torchmetrics, and so Lightning, imports torchvision wherever it is installed: repair it before either is imported.
with contextlib.suppress(ModuleNotFoundError):
    from train import _torchvision  # noqa: F401
