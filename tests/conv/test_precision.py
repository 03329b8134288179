"""What "highest" promises: every output is a sum of its own products, by whatever algorithm, in every direction."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conv_cases import BOUNDS, DIRECTIONS, LAYOUTS, chosen, exact, operands, relative_error, run
from shapes import case

import torchconv
import torchconv.functional as TF
import torchconv.nn as tnn

# Which algorithm is the cheapest is a matter of the shapes alone here, and the inputs' batches are small.
pytestmark = pytest.mark.usefixtures("batch_invariant")

F = torch.nn.functional
ops = torch.ops.torchconv
SUMS = {"direct", "depthwise"}
# Convolutions that auto gives to Winograd's algorithm or the Fourier transform.
WINOGRAD = case("winograd", (1, 64, 12, 13), (64, 64, 3, 3), padding=1)
FFT = case("fft", (1, 8, 64, 64), (8, 8, 33, 33), padding=16)
DEPTHWISE_FFT = case("depthwise_fft", (1, 2, 96, 96), (2, 1, 49, 49), padding=24, groups=2)
FFT_1D = case("fft_1d", (1, 6, 2000), (6, 6, 801), padding=400)
TAKEN = {"winograd": [WINOGRAD], "fft": [FFT, DEPTHWISE_FFT, FFT_1D]}
CASES = [c for cases in TAKEN.values() for c in cases]


@pytest.fixture
def highest():
    """Precision "highest" for the process, put back afterwards."""
    torchconv.set_conv_precision("highest")
    yield
    torchconv.set_conv_precision("high")


def test_auto_takes_them() -> None:
    for algorithm, cases in TAKEN.items():
        for c in cases:
            x, w, _, g = operands(c, torch.float32)
            assert [chosen(c, direction, x, w, g)[0] for direction in DIRECTIONS] == [algorithm] * 3, c


@pytest.mark.parametrize("case", CASES, ids=str)
def test_highest_in_the_call_sums_directly(case) -> None:
    """Bitwise what the algorithm chosen gives by name."""
    for layout in LAYOUTS if case.dims == 2 else ["contiguous"]:
        x, w, b, g = operands(case, torch.float32, layout)
        for direction in DIRECTIONS:
            name, _ = chosen(case, direction, x, w, g, "highest")
            assert name in SUMS
            result = run(case, direction, x, w, b, g, "highest")
            assert torch.equal(result, run(case, direction, x, w, b, g, name))
            assert not torch.equal(result, run(case, direction, x, w, b, g, "auto"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_highest_of_the_process_is_highest_in_the_call(case, highest) -> None:
    x, w, b, g = operands(case, torch.float32)
    for direction in DIRECTIONS:
        name, _ = chosen(case, direction, x, w, g)
        assert name in SUMS
        assert torch.equal(run(case, direction, x, w, b, g), run(case, direction, x, w, b, g, "highest"))
        for forbidden in ("winograd", "fft"):
            with pytest.raises(RuntimeError, match=f"'{forbidden}' cannot run.* the precision asked for is 'highest'"):
                run(case, direction, x, w, b, g, forbidden)


def test_derivatives_inherit_it() -> None:
    """The gradients, and theirs, of a call under "highest" are those that the algorithm chosen gives by name."""
    x, w, _, g = (t.requires_grad_() for t in operands(WINOGRAD, torch.float32))

    def derivatives(algorithm: str) -> list[torch.Tensor]:
        y = TF.conv2d(x, w, None, 1, 1, algorithm=algorithm)
        first = torch.autograd.grad(y, (x, w), g, create_graph=True)
        return [y, *first, *torch.autograd.grad([t.square().sum() for t in first], (x, w, g))]

    assert all(map(torch.equal, derivatives("highest"), derivatives("direct")))
    y = TF.conv_transpose2d(x, w, None, 1, 1, algorithm="highest")
    assert torch.equal(y, TF.conv_transpose2d(x, w, None, 1, 1, algorithm="direct"))


def test_every_operator_takes_it() -> None:
    x, w, b, _ = operands(WINOGRAD, torch.float32)
    window = ([1, 1], [1] * 4, [1, 1], 1)
    calls = {
        ops.convolution_relu: (x, w, b),
        ops.convolution_max: (x, w, b[:16], 4),
        ops.convolution_norm: (x, w, b[:16], 4),
    }
    for operator, operands_ in calls.items():
        ours, theirs = (operator(*operands_, *window, algorithm) for algorithm in ("highest", "direct"))
        for one, other in zip(*([t] if isinstance(t, torch.Tensor) else t for t in (ours, theirs)), strict=True):
            assert torch.equal(one, other), operator


def test_where_there_is_no_kernel() -> None:
    """The built-in operator runs, as under auto; a name alone is refused."""
    x, w = torch.randn(1, 3, 6, 6).half(), torch.randn(4, 3, 3, 3).half()
    assert torch.equal(TF.conv2d(x, w, algorithm="highest"), TF.conv2d(x, w))
    assert torch.equal(TF.conv_transpose2d(x, w[:3], algorithm="highest"), TF.conv_transpose2d(x, w[:3]))
    with pytest.raises(RuntimeError, match="algorithm 'direct' cannot run"):
        TF.conv2d(x, w, algorithm="direct")


def test_of_a_thread_and_of_what_it_calls() -> None:
    """Nested, left by an exception, as a decorator; other threads keep the process's."""
    with torchconv.precision("highest"):
        assert torchconv.get_conv_precision() == "highest"
        with torchconv.precision("high"):
            assert torchconv.get_conv_precision() == "high"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torchconv.get_conv_precision).result() == "high"
        with pytest.raises(ZeroDivisionError), torchconv.precision("high"):
            _ = 1 / 0
        assert torchconv.get_conv_precision() == "highest"
    assert torchconv.precision("highest")(torchconv.get_conv_precision)() == "highest"
    assert torchconv.get_conv_precision() == "high"
    with pytest.raises(ValueError, match="precision: expected 'high' or 'highest', got 'higher'"):
        torchconv.precision("higher").__enter__()


def test_inside_of_it_what_is_run_sums_directly(highest) -> None:
    x, w, b, g = operands(WINOGRAD, torch.float32)
    direct = [run(WINOGRAD, direction, x, w, b, g, "direct") for direction in DIRECTIONS]
    with torchconv.precision("high"):
        assert run(WINOGRAD, "forward", x, w, b, g, "winograd").isfinite().all()
        with torchconv.precision("highest"):
            assert all(torch.equal(run(WINOGRAD, d, x, w, b, g), y) for d, y in zip(DIRECTIONS, direct, strict=True))


def test_of_one_model() -> None:
    """Set by convert on every layer that is not told its algorithm, inherited by the backward, and taken back."""
    layers = [torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ConvTranspose2d(64, 64, 3), tnn.Conv2d(64, 4, 1)]
    layers += [tnn.Conv2d(4, 4, 3, algorithm="direct"), tnn.GroupConv2d(4, 2, 3, lifting=True)]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(2, 64, 9, 9)
    with torchconv.precision("highest"):
        expected = torch.autograd.grad(torchconv.convert(model)(x).sum(), list(model.parameters()))
    torchconv.convert(model, precision="highest")
    assert [layer.algorithm for layer in model] == ["highest"] * 3 + ["direct", "highest"]
    assert all(map(torch.equal, torch.autograd.grad(model(x).sum(), list(model.parameters())), expected))
    assert {row.algorithm for row in torchconv.explain(model, x)} == {"direct"}
    assert "algorithm=highest" in repr(model)
    torchconv.convert(model, precision="high")
    assert [layer.algorithm for layer in model] == ["auto"] * 3 + ["direct", "auto"]
    with pytest.raises(ValueError, match="precision must be 'high', 'highest' or None, got 'higher'"):
        torchconv.convert(model, precision="higher")


# ---- what follows from it ----


@pytest.mark.parametrize("case", CASES, ids=str)
def test_counts_are_whole(case) -> None:
    """Sums of zeros and ones, below 2²⁴, are exact whatever their order."""
    x, w, b, g = (t.gt(0).float() for t in operands(case, torch.float32))
    for direction in DIRECTIONS:
        assert torch.equal(
            run(case, direction, x, w, b, g, "highest").double(), exact(case, direction, x, w, b, g).round()
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_signs_and_zeros_stay(case) -> None:
    """Non-negative operands give non-negative results, and zeros where only zeros are seen."""
    x, w, b, g = (t.abs() for t in operands(case, torch.float32))
    x[..., : case.input[-1] // 2], g[..., : case.output[-1] // 2] = 0, 0
    for direction in DIRECTIONS:
        result = run(case, direction, x, w, b * 0, g, "highest")
        assert (result >= 0).all()
        terms = exact(case, direction, x.sign(), w.sign(), b * 0, g.sign()).round()  # that are not zero
        assert not result[terms == 0].any()


def test_a_causal_filter_waits_for_the_impulse() -> None:
    x, w = torch.zeros(1, 8, 4000), torch.randn(8, 8, 801)
    x[..., 2000] = 1
    y = TF.conv1d(x, w, padding=((800, 0),), algorithm="highest")
    assert not y[..., :2000].any()
    assert y[..., 2000].all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_quiet_passage_beside_a_loud_one(case) -> None:
    """A million times quieter: results that see nothing else keep the bound of results anywhere."""
    x, w, b, g = operands(case, torch.float32)
    middle = case.input[-1] // 2
    x[..., middle:] *= 1e-6
    g[..., middle:] *= 1e-6
    quiet = slice(middle + case.weight[-1] // 2 + 1, None)
    for direction in ("forward", "input_grad"):
        result, expected = (f(case, direction, x, w, b * 0, g, *how) for f, how in ((run, ["highest"]), (exact, [])))
        assert relative_error(result[..., quiet], expected[..., quiet]) <= BOUNDS[torch.float32][direction]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_large_numbers_do_not_overflow(case) -> None:
    """Where every product and every sum is within range, so is the result."""
    x, w, b, g = operands(case, torch.float32)
    for direction, values in (
        ("forward", (x * 1e36, w * 1e-3, b, g)),
        ("input_grad", (x, w * 1e-3, b, g * 1e36)),
        ("weight_grad", (x * 1e36, w, b, g * 1e-3)),
    ):
        result, expected = run(case, direction, *values, "highest"), exact(case, direction, *values)
        assert result.isfinite().all()
        assert relative_error(result, expected) <= BOUNDS[torch.float32][direction]


def test_fft_spoils_no_more_than_a_tile() -> None:
    """Under "high" an impulse of 10⁶ harms the results of its own transforms, of 8,192 points at the most."""
    torch.manual_seed(0)
    x, w = torch.randn(1, 4, 40_000), torch.randn(4, 4, 401)
    x[..., 20_000] = 1e6
    y, y64 = TF.conv1d(x, w, algorithm="fft"), F.conv1d(x.double(), w.double())
    for far in (slice(0, 20_000 - 8192), slice(20_000 + 8192, None)):
        assert relative_error(y[..., far], y64[..., far]) <= BOUNDS[torch.float32]["forward"]
