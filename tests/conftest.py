"""Fixed seeds and hypothesis profiles for every test."""

import hypothesis
import pytest
import torch

import torchconv

# A property's verdict may not depend on the clock or on chance.
hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """torch.set_num_threads, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def batch_invariant():
    """Samples' results that depend on no batch, for the test."""
    torchconv.set_batch_invariant(True)
    yield
    torchconv.set_batch_invariant(False)
