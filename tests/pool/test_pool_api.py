"""What pooling's functions accept and refuse, and how they stand to autocast, other dtypes and other devices."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from pool_cases import assert_same

import torchconv.functional as ours

NAMES = [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg", "lp") for n in (1, 2, 3)]


def planes(*size, dtype=torch.float32):
    return torch.arange(math.prod(size)).reshape(size).to(dtype)


x1, x2, x3 = planes(1, 2, 4), planes(1, 2, 4, 4), planes(1, 2, 4, 4, 4)

# ---- refused by the built-in and here ----

REFUSED = [
    ("max_pool2d", (x2, 0), r"max_pool2d: kernel_size must be at least 1, got 0"),
    ("max_pool2d", (x2, (2, -1)), r"kernel_size must be at least 1, got \(2, -1\)"),
    ("max_pool2d", (x2, 2, 0), r"stride must be at least 1, got 0"),
    ("max_pool2d", (x2, 2, (1, -1)), r"stride must be at least 1, got \(1, -1\)"),
    ("max_pool2d", (x2, 2, 2, 2), r"padding must be at most half the window, got padding=2, kernel_size=2"),
    ("max_pool2d", (x2, 2, 2, 2, 2), r"got padding=2, kernel_size=2, dilation=2"),
    ("max_pool2d", (x2, 2, 2, -1), r"padding must be at least 0, got -1"),
    ("max_pool2d", (x2, 2, 2, 0, 0), r"dilation must be at least 1, got 0"),
    ("max_pool2d", (x2, 5), r"input of shape \[1, 2, 4, 4\] gives an output of spatial size \[0, 0\]"),
    ("max_pool2d", (x2, (2, 5)), r"spatial size \[2, 0\], which is too small \(kernel_size=\[2, 5\]"),
    ("max_pool2d", (x2, (2, 2, 2)), r"kernel_size must be one integer or 2 of them, got \(2, 2, 2\)"),
    ("max_pool2d", (x2, ()), r"kernel_size must be one integer or 2 of them, got \(\)"),
    ("max_pool2d", (x2, 2, (2, 2, 2)), r"stride must be one integer or 2"),
    ("max_pool2d", (x2, 2, 2, ()), r"padding must be one integer or 2"),
    ("max_pool2d", (x2[0, 0], 2), r"axes, got shape \[4, 4\]"),
    ("max_pool2d", (x3, 2), r"axes, got shape \[1, 2, 4, 4, 4\]"),
    ("max_pool1d", (x1[0, 0], 2), r"axes, got shape \[4\]"),
    ("max_pool1d", (x2, 2), r"axes, got shape \[1, 2, 4, 4\]"),
    ("max_pool1d", (x1, 5), r"spatial size \[0\]"),
    ("max_pool1d", (x1, 2, 0), r"stride must be at least 1"),
    ("max_pool1d", (x1, 2, 2, 2), r"at most half the window"),
    ("max_pool1d", (x1, (2, 2)), r"one integer or 1 of them"),
    ("max_pool3d", (x3[0, 0], 2), r"axes, got shape \[4, 4, 4\]"),
    ("max_pool3d", (x3, (2, 2)), r"one integer or 3 of them, got \(2, 2\)"),
    ("max_pool3d", (x3, 2, 2, 2), r"at most half the window"),
    ("max_pool3d", (x3, 2, 2, 0, (1, 0, 1)), r"dilation must be at least 1"),
    ("max_pool3d", (x3, 5), r"spatial size \[0, 0, 0\]"),
    ("avg_pool1d", (x1, 5), r"spatial size \[0\]"),
    ("avg_pool1d", (x1, 2, 0), r"stride must be at least 1"),
    ("avg_pool1d", (x1[0, 0], 2), r"axes, got shape \[4\]"),
    ("avg_pool2d", (x2, 0), r"kernel_size must be at least 1"),
    ("avg_pool2d", (x2, 2, 2, 2), r"padding must be at most half the window, got padding=2, kernel_size=2 \("),
    ("avg_pool2d", (x2, 2, 2, -1), r"padding must be at least 0"),
    ("avg_pool2d", (x2, 2, 2, 0, False, True, 0), r"divisor_override must not be 0"),
    ("avg_pool3d", (x3[0, 0], 2), r"axes, got shape \[4, 4, 4\]"),
    ("avg_pool3d", (x3, 5, 1, 1), r"input of shape \[1, 2, 4, 4, 4\] is smaller than kernel_size=5"),
    ("avg_pool3d", (x3, 2, 2, 0, False, True, 0), r"divisor_override must not be 0"),
    ("adaptive_max_pool1d", (x1, -1), r"output_size must be at least 0, got -1"),
    ("adaptive_max_pool1d", (x1, (2, 2)), r"output_size must be one integer or 1 of them, got \(2, 2\)"),
    ("adaptive_max_pool2d", (x2, (2, -1)), r"output_size must be at least 0, got \[2, -1\]"),
    ("adaptive_max_pool2d", (x2, (2,)), r"output_size must be one integer or 2 of them, got \(2,\)"),
    ("adaptive_max_pool2d", (x2[0, 0], 2), r"axes, got shape \[4, 4\]"),
    ("adaptive_max_pool3d", (x3, -2), r"output_size must be at least 0"),
    ("adaptive_avg_pool1d", (x1, -1), r"output_size must be at least 0"),
    ("adaptive_avg_pool2d", (x2, (2, 2, 2)), r"output_size must be one integer or 2"),
    ("adaptive_avg_pool2d", (x2[0, 0], 2), r"axes, got shape \[4, 4\]"),
    ("adaptive_avg_pool3d", (x3[0, 0], 2), r"axes, got shape \[4, 4, 4\]"),
    ("lp_pool2d", (x2, 2, 0), r"lp_pool2d: kernel_size must be at least 1"),
    ("lp_pool2d", (x2, 2, 5), r"spatial size \[0, 0\]"),
    # No kernel for an input with an empty axis: the built-in's refusal.
    ("max_pool1d", (planes(1, 0, 4), 2), r"got:\[1, 0, 4\]"),
    ("max_pool2d", (planes(1, 0, 4, 4), 2), r"got:\[1, 0, 4, 4\]"),
    ("max_pool2d", (planes(1, 2, 0, 4), 2), r"got:\[1, 2, 0, 4\]"),
    ("max_pool2d", (planes(0, 4, 4), 2), r"got:\[0, 4, 4\]"),
    ("max_pool3d", (planes(1, 2, 4, 0, 4), 2), r"\[1, 2, 4, 0, 4\]"),
    ("avg_pool1d", (planes(1, 0, 4), 2), r"\[1, 0, 1, 4\]"),
    ("avg_pool2d", (planes(1, 0, 4, 4), 2), r"\[1, 0, 4, 4\]"),
    ("avg_pool3d", (planes(1, 0, 4, 4, 4), 2), r"\[1, 0, 4, 4, 4\]"),
    ("adaptive_max_pool2d", (planes(1, 0, 4, 4), 2), r"\[1, 0, 4, 4\]"),
    ("adaptive_avg_pool2d", (planes(1, 2, 0, 4), 2), r"\[1, 2, 0, 4\]"),
]
REFUSED_TYPES = [
    ("max_pool2d", (x2, 2.0), r"kernel_size must be an integer, got 2.0"),
    ("max_pool2d", (x2, "a"), r"kernel_size must be an integer, got 'a'"),
    ("max_pool2d", (x2, 2, 1.5), r"stride must be an integer, got 1.5"),
    ("avg_pool2d", (x2, None), r"kernel_size must be an integer, got None"),
    ("adaptive_avg_pool1d", (x1, None), r"output_size must be an integer, got None"),
    ("adaptive_max_pool2d", (x2, None), r"output_size must be an integer, got None"),
    ("max_pool2d", ([[1.0]], 2), r"must be Tensor, not list"),
    ("max_pool1d", (x1, True), r"kernel_size must be an integer, got True"),
    ("max_pool2d", (x2, 2, True), r"stride must be an integer, got True"),
    ("max_pool3d", (x3, 2, 2, (True, 1, 0)), r"padding must be an integer, got True"),
    ("max_pool2d", (x2, 2, 2, 0, True), r"dilation must be an integer, got True"),
    ("avg_pool1d", (x1, [True]), r"kernel_size must be an integer, got True"),
    ("avg_pool2d", (x2, 2, 2, 0, False, True, True), r"divisor_override must be an integer, got True"),
    ("adaptive_avg_pool2d", (x2, True), r"output_size must be an integer, got True"),
    ("adaptive_max_pool1d", (x1, (True,)), r"output_size must be an integer, got True"),
    ("lp_pool2d", (x2, 2, True), r"kernel_size must be an integer, got True"),
    ("local_response_norm", (x2, True), r"size must be an integer, got True"),
]
REFUSED_DTYPES = [
    ("max_pool1d", (x1.long(), 2), r"not implemented for 'Long'"),
    ("max_pool2d", (x2.bool(), 2), r"not implemented for 'Bool'"),
    ("max_pool2d", (x2.to(torch.complex64), 2), r"not implemented for 'ComplexFloat'"),
    ("avg_pool2d", (x2.int(), 2), r"not implemented for 'Int'"),
    ("avg_pool3d", (x3.half(), 2), r"not implemented for 'Half'"),
    ("adaptive_max_pool2d", (x2.long(), 2), r"not implemented for 'Long'"),
    ("lp_pool2d", (x2.to(torch.complex64), 2.0, 2), r"not implemented for 'ComplexFloat'"),
]


@pytest.mark.parametrize(
    ("error", "name", "args", "message"),
    [
        pytest.param(error, *row, id=f"{row[0]}-{row[2]}")
        for error, rows in ((RuntimeError, REFUSED), (TypeError, REFUSED_TYPES), (NotImplementedError, REFUSED_DTYPES))
        for row in rows
    ],
)
def test_refused(error, name, args, message):
    with pytest.raises(error):
        getattr(F, name)(*args)
    with pytest.raises(error, match=message):
        getattr(ours, name)(*args)


def test_axes_are_counted_also_where_one_is_empty() -> None:
    """The built-in means over the last axes of whatever it is given."""
    for size in ((2, 5, 4, 6, 0, 1), (2, 5, 4, 6, 3, 1)):
        with pytest.raises(RuntimeError, match=r"expected an input of 4 \(unbatched\) or 5 \(batched\) axes"):
            ours.adaptive_avg_pool3d(torch.zeros(size), 1)


# ---- accepted in every form that the built-in accepts ----


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool2d", (x2, (2,))),
        ("max_pool2d", (x2, [2, 1])),
        ("max_pool2d", (x2, 2, ())),
        ("max_pool2d", (x2, 2, [])),
        ("max_pool2d", (x2, 2, (1,))),
        ("max_pool2d", (x2, 3, 2, (1,), (1, 1), True)),
        ("max_pool2d", (x2, torch.tensor(2))),
        ("max_pool1d", (x1, (2,), (1,))),
        ("max_pool1d", (x1, 3, 1, 1, 1, True)),
        ("max_pool3d", (x3, (2, 1, 3), 1)),
        ("max_pool2d", (planes(0, 2, 4, 4), 2)),
        ("max_pool1d", (planes(0, 2, 4), 2)),
        ("max_pool3d", (planes(0, 2, 4, 4, 4), 2)),
        ("avg_pool1d", (x1, (2,))),
        ("avg_pool1d", (x1, 2, ())),
        ("avg_pool1d", (planes(0, 2, 4), 2)),
        ("avg_pool2d", (x2, 2, None, 1, True, False)),
        ("avg_pool2d", (x2, 2, 2, 0, False, True, -3)),
        ("avg_pool2d", (planes(0, 2, 4, 4), 2)),
        ("avg_pool3d", (planes(0, 2, 4, 4, 4), 2)),
        ("adaptive_max_pool1d", (x1, (3,))),
        ("adaptive_max_pool1d", (x1, 0)),
        ("adaptive_max_pool2d", (x2, (0, 2))),
        ("adaptive_max_pool2d", (x2, (None, 2))),
        ("adaptive_max_pool3d", (x3, [2, None, None])),
        ("adaptive_max_pool1d", (planes(0, 4), 2)),
        ("adaptive_avg_pool1d", (planes(1, 0, 4), 2)),
        ("adaptive_avg_pool2d", (planes(1, 0, 4, 4), 2)),
        ("adaptive_avg_pool2d", (planes(1, 2, 0, 4), 1)),
        ("adaptive_avg_pool2d", (x2, (0, 0))),
        ("adaptive_avg_pool3d", (x3, (None, 2, None))),
        ("adaptive_avg_pool2d", (planes(0, 2, 4, 4), 1)),
        ("lp_pool2d", (x2, 2, [2, 3], [1, 2], True)),
        ("lp_pool1d", (x1, 3.0, 2, 1)),
    ],
)
def test_accepted(name, args):
    assert_same(getattr(ours, name)(*args), getattr(F, name)(*args))


@pytest.mark.parametrize("name", NAMES)
def test_signature(name):
    theirs = getattr(F, name)
    written_in_c = name.startswith("avg") or name == "adaptive_avg_pool1d"
    if not written_in_c:
        theirs = getattr(F, f"{name}_with_indices") if "max" in name else theirs
        expected = [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]
    else:  # no signature to ask for: as its documentation has it
        text = theirs.__doc__.split("(", 1)[1].split(")", 1)[0]
        parts = [part.strip().partition("=") for part in text.split(",")]
        expected = [(n, eval(d) if d else inspect.Parameter.empty) for n, _, d in parts]
    beyond = ["activation"] if name in ("max_pool1d", "max_pool2d", "max_pool3d") else []
    mine = list(inspect.signature(getattr(ours, name)).parameters.values())
    assert [p.name for p in mine if p.kind is p.KEYWORD_ONLY] == beyond
    assert [(p.name, p.default) for p in mine if p.kind is not p.KEYWORD_ONLY] == expected
    assert "Source" in getattr(ours, name).__doc__


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_with_indices(dims):
    x = torch.randn(2, 3, *[6] * dims)
    name = f"max_pool{dims}d_with_indices"
    for mine, theirs in zip(getattr(ours, name)(x, 3, 2, 1), getattr(F, name)(x, 3, 2, 1), strict=True):
        assert_same(mine, theirs)


# ---- dtypes, devices, autocast, subclasses ----


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_dtypes_with_no_kernel_do_what_the_built_in_does(name, dtype):
    x = torch.ones(1, 2, *[4] * int(name[-2]), dtype=dtype)
    args = (x, 2.0, 2) if name.startswith("lp") else (x, 2)
    mine, theirs = (outcome(lambda f=f: getattr(f, name)(*args)) for f in (ours, F))
    if isinstance(theirs, torch.Tensor):
        assert_same(mine, theirs)
    else:
        assert mine is theirs


@pytest.mark.parametrize("name", NAMES)
def test_meta_device(name):
    x = torch.empty(1, 2, *[4] * int(name[-2]), device="meta")
    args = (x, 2.0, 2) if name.startswith("lp") else (x, 2)
    y = getattr(ours, name)(*args)
    assert (y.device.type, y.shape[2:]) == ("meta", (2,) * int(name[-2]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_autocast(name, dtype):
    x = torch.rand(1, 2, *[4] * int(name[-2])).to(dtype)
    args = (x, 2.0, 2) if name.startswith("lp") else (x, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = getattr(ours, name)(*args), getattr(F, name)(*args)
    assert mine.dtype == theirs.dtype
    # Of an adaptive mean the built-in divides axis by axis: three roundings against one.
    torch.testing.assert_close(mine, theirs, rtol=3 * torch.finfo(mine.dtype).eps, atol=0)


def test_subclass():
    class Named(torch.Tensor):
        pass

    x = torch.randn(1, 2, 6, 6).as_subclass(Named)
    for name, args in ("max_pool2d", (2,)), ("avg_pool2d", (2,)), ("adaptive_avg_pool2d", (3,)):
        mine, theirs = getattr(ours, name)(x, *args), getattr(F, name)(x, *args)
        assert type(mine) is type(theirs) is Named
        assert torch.equal(mine, theirs)
    assert type(ours.max_pool2d(torch.nn.Parameter(torch.randn(1, 2, 4, 4)), 2)) is torch.Tensor


def test_default_device_does_not_turn_the_kernels_off():
    with torch.device("cpu"):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.dtype) or t, lambda t: t):
            ours.max_pool2d(torch.randn(1, 1, 4, 4, requires_grad=True), 2)
    assert saved == [torch.uint8]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pooling_to_nothing(kind, dims):
    """Whatever the other sides; the built-in's maximum runs over them, and its backward refuses what it gave."""
    for last in ((0,), (2**28,)):
        size = ((0,) + (3,) * dims)[: dims - 1] + last if dims > 1 else (0,)
        x = torch.randn(2, 3, *[5] * dims, requires_grad=True)
        y = getattr(ours, f"adaptive_{kind}_pool{dims}d")(x, size)
        assert y.shape == (2, 3, *size)
        y.sum().backward()
        assert not x.grad.any()
