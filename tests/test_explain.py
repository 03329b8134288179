"""explain: what it says, checked against counts done by hand and against what runs; and that it changes nothing."""

import math
import re
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

import torchconv
from torchconv import nn
from torchconv.explain import DIRECTIONS, Row, error_bound
from torchconv.ops import convolution_output_size


def rows_of(layer, x, **keywords):
    return {row.direction: row for row in torchconv.explain(layer, x, **keywords)}


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.Dropout(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(4, 4, 1),
    )


def test_counts_of_a_worked_example():
    """10 filters of 5×5 on a 3×32×32 input, stride 1, padding 2: 768,000 multiply-adds, 760 parameters."""
    layer = nn.Conv2d(3, 10, 5, padding=2)
    rows = rows_of(layer, torch.randn(1, 3, 32, 32))
    assert tuple(rows) == DIRECTIONS
    assert {row.multiply_adds for row in rows.values()} == {768_000}
    input, output, weight, bias = 3 * 32 * 32, 10 * 32 * 32, 750, 10
    assert rows["forward"].bytes_moved == 4 * (input + weight + bias + output)
    assert rows["input_grad"].bytes_moved == 4 * (input + weight + output)
    assert rows["weight_grad"].bytes_moved == 4 * (input + weight + bias + output)
    assert rows["forward"].kept_bytes == 4 * input  # of the parameters nothing is kept that is not there anyway


@pytest.mark.parametrize(
    "keywords",
    [
        dict(),
        dict(stride=2, padding="same"),
        dict(stride=2, padding="same", padding_mode="circular"),
        dict(padding=((0, 2), (1, 1)), dilation=2),
        dict(padding=2, padding_mode="reflect", bias=False),
        dict(groups=4),
        dict(groups=2),
    ],
    ids=str,
)
def test_multiply_adds_are_those_of_the_definition(keywords):
    layer = nn.Conv2d(4, 8, 3, **keywords)
    x = torch.randn(2, 4, 9, 10)
    expected = layer(x).numel() * 9 * 4 // keywords.get("groups", 1)
    for row in rows_of(layer, x).values():
        assert row.multiply_adds == expected
        assert row.algorithm in torch.ops.torchconv._algorithms()
        assert row.workspace_bytes >= 0
    assert rows_of(layer, x[0])["forward"].multiply_adds == expected // 2  # no batch


@pytest.mark.parametrize(
    "keywords",
    [dict(), dict(output_padding=1), dict(output_padding=(0, 1), dilation=3, groups=2)],
    ids=str,
)
def test_a_transposed_convolution_is_the_input_gradient_of_a_convolution(keywords):
    layer = nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, **keywords)
    x = torch.randn(2, 4, 5, 6)
    y = layer(x)
    rows = rows_of(layer, x)
    assert {row.multiply_adds for row in rows.values()} == {x.numel() * 8 // layer.groups * 9}
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.ops.torchconv, "_explain", lambda *arguments: asked.append(arguments) or ("gemm", [], 0, 0.0)
        )
        torchconv.explain(layer, x)
    assert [arguments[0] for arguments in asked] == ["input_grad", "forward", "weight_grad"]
    for _, input_size, weight_size, stride, padding, dilation, groups, *_ in asked:
        assert (tuple(input_size), weight_size, groups) == (y.shape, layer.weight.shape, layer.groups)
        assert padding == [side for extra in layer.output_padding for side in (1, 1 - extra)]
        assert convolution_output_size(input_size, weight_size, stride, padding, dilation) == list(x.shape)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_number_of_axes(n):
    x = torch.randn(2, 4, *[7] * n)
    for name in nn.__all__:
        # MaxUnpool takes indices too, and lazy layers are others once they have run.
        known = hasattr(torch.nn, name.replace("ReLU", "")) and "Unpool" not in name and "Lazy" not in name
        if name.endswith(f"{n}d") and known:
            arguments = (4, 4, 3) if name.startswith("Conv") else (2, 2) if name.startswith("LP") else (2,)
            rows = rows_of(getattr(nn, name)(*arguments), x)
            assert tuple(rows) == (DIRECTIONS if name.startswith("Conv") else DIRECTIONS[:2])
            assert {row.layer for row in rows.values()} == {name}


def test_what_is_said_is_what_runs():
    """Asked by name, the algorithm that explain announces gives bitwise what the layer gives; and no other that can run
    is estimated cheaper."""
    known = set(torch.ops.torchconv._algorithms()) - {"reference"}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for groups in (1, 4):
            layer = nn.Conv2d(4, 8, 3, groups=groups)
            x = torch.randn(2, 4, 9, 10).to(memory_format=memory_format)
            for row in rows_of(layer, x).values():
                refused = [reason.partition(":")[0] for reason in row.refused]
                assert {*refused, row.algorithm} - {"built-in"} == known
                assert row.estimate > 0
                for reason in row.refused:
                    estimate = re.fullmatch(r"\w+: estimated at ([\d.]+) times the cost", reason)
                    if estimate:  # the built-in is named where it should be the faster
                        assert (float(estimate[1]) < 1) if reason.startswith("built-in") else (float(estimate[1]) >= 1)
                    else:
                        assert reason.partition(": ")[2]
            named = nn.Conv2d(4, 8, 3, groups=groups, algorithm=rows_of(layer, x)["forward"].algorithm)
            named.load_state_dict(layer.state_dict())
            assert torch.equal(named(x), layer(x))


def test_channels_last_is_seen():
    """The selection may depend on the layout, so explain must ask with the one that the layer works in."""
    asked = []

    def answer(*arguments):
        asked.append(arguments[8])
        return "gemm", [], 0, 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.torchconv, "_explain", answer)
        for n, memory_format in ((2, torch.channels_last), (3, torch.channels_last_3d)):
            layer = getattr(nn, f"Conv{n}d")(4, 8, 3)
            x = torch.randn(2, 4, *[3] * n)  # one output position, where the strides alone tell
            torchconv.explain(layer, x)
            torchconv.explain(layer, x.to(memory_format=memory_format))
            assert asked == [False] * 3 + [True] * 3
            asked.clear()


def test_an_algorithm_that_cannot_run_says_so():
    layer = nn.Conv2d(4, 8, 3, algorithm="reference")
    assert {row.algorithm for row in rows_of(layer, torch.randn(1, 4, 5, 5)).values()} == {"reference"}
    with pytest.raises(RuntimeError, match="depthwise"):
        torchconv.explain(nn.Conv2d(4, 8, 3, algorithm="depthwise"), torch.randn(1, 4, 5, 5))


def test_pooling():
    x = torch.randn(2, 4, 8, 8)
    rows = rows_of(nn.MaxPool2d(2), x)
    assert (rows["forward"].algorithm, rows["forward"].error_bound) == ("direct", 0.0)
    assert rows["forward"].kept_bytes == 0  # the input needs no gradient
    rows = rows_of(torch.nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)), x)
    explained = torchconv.explain(torch.nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)), x)
    kept = {row.layer: row.kept_bytes for row in explained if row.direction == "forward"}
    assert kept == {"Conv2d": x.nbytes, "MaxPool2d": 2 * 4 * 4 * 4, "AvgPool2d": 0}  # one byte an output


def test_names_calls_and_built_in_layers():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.other = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.MaxPool2d(2))
            self.unused = nn.Conv2d(1, 1, 1)

        def forward(self, x, scale=1):
            return self.other(self.conv(self.conv(input=x)) * scale)

    explained = torchconv.explain(Twice(), torch.randn(1, 4, 6, 6), scale=2)
    assert Counter(row.name for row in explained) == {"conv": 3, "conv#2": 3, "other.0": 1, "other.1": 1}
    stock = [row for row in explained if row.algorithm == "built-in"]
    assert [(row.layer, row.direction, row.multiply_adds) for row in stock] == [
        ("Conv2d", "forward", None),
        ("MaxPool2d", "forward", None),
    ]
    assert stock[0].refused == ("not a layer of torchconv: see convert",)
    assert len(torchconv.explain(nn.Conv2d(4, 4, 3), torch.randn(1, 4, 6, 6))) == 3
    assert len(torchconv.explain(torch.nn.ReLU(), torch.randn(1))) == 0


def test_types_without_a_kernel():
    rows = rows_of(nn.Conv2d(3, 4, 3, dtype=torch.complex64), torch.randn(1, 3, 5, 5, dtype=torch.complex64))
    assert {row.algorithm for row in rows.values()} == {"built-in"}
    assert rows["forward"].refused == ("no kernel for torch.complex64 on cpu",)
    assert rows["forward"].multiply_adds == 9 * 4 * 27
    assert rows["forward"].error_bound is None


def test_autocast_is_seen():
    with torch.autocast("cpu", torch.bfloat16):
        rows = rows_of(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 5, 5))
    assert rows["forward"].bytes_moved == 2 * (75 + 108 + 4 + 36)
    assert rows["forward"].error_bound == error_bound(rows["forward"].algorithm, "forward", torch.bfloat16)


def bounds_of_the_readme() -> dict[str, tuple[float, float]]:
    """By algorithm: of outputs and input gradients, and of weight gradients; relative to the norm, in float32."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    rows = re.findall(
        r"^\| ([a-z, ]+) \| (\S+) forward and input gradient, (\S+) weight gradient \|$", text, re.MULTILINE
    )
    return {name: (float(maps), float(weights)) for names, maps, weights in rows for name in names.split(", ")}


def test_error_bounds():
    assert error_bound("gemm", "forward", torch.float32) == 2e-6
    assert error_bound("gemm", "weight_grad", torch.float32) == 1e-5
    assert math.isclose(error_bound("direct", "forward", torch.float64), 2e-6 * 2**-29)
    assert math.isclose(error_bound("direct", "forward", torch.bfloat16), 2e-6 + 2**-8)
    said = bounds_of_the_readme()
    assert set(said) == set(torch.ops.torchconv._algorithms())
    for algorithm, (of_maps, of_weights) in said.items():
        bounds = [error_bound(algorithm, direction, torch.float32) for direction in DIRECTIONS]
        assert bounds == [of_maps, of_maps, of_weights]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_error_bound_holds(dtype):
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 16, 3).to(dtype)
    x = torch.randn(2, 64, 9, 9, dtype=dtype)
    exact = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double())
    error = (layer(x).double() - exact).norm() / exact.norm()
    assert error <= rows_of(layer, x)["forward"].error_bound


def test_nothing_changes():
    network = model()
    network[3].eval()
    seen = []
    network[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    x, seed = torch.randn(2, 3, 8, 8), torch.get_rng_state()
    torchconv.explain(network, x)
    assert torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == flags
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()] == hooks
    assert all(p.grad is None for p in network.parameters())
    assert seen == [(2, 8, 8, 8)]  # one run

    with pytest.raises(RuntimeError):
        torchconv.explain(network, torch.randn(2, 5, 8, 8))
    assert [module.training for module in network.modules()] == flags
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()] == hooks


def test_inference_mode_and_no_grad():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        assert rows_of(layer, x)["forward"].kept_bytes == x.nbytes  # as in training
    with torch.inference_mode():
        assert rows_of(layer, torch.randn(1, 3, 5, 5))["forward"].kept_bytes == 0
    assert torch.is_grad_enabled()


def test_random_forward_uses_no_random_numbers_of_the_caller():
    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    seed = torch.get_rng_state()
    torchconv.explain(torch.nn.Sequential(Noisy(), nn.MaxPool2d(2)), torch.zeros(1, 1, 4, 4))
    assert torch.equal(torch.get_rng_state(), seed)


def test_printed_table():
    explained = torchconv.explain(model(), torch.randn(2, 3, 8, 8))
    lines = str(explained).splitlines()
    assert repr(explained) == str(explained)
    assert lines[0].split() == "layer output kernel params direction algorithm MACs share scratch keeps".split()
    algorithms = dict.fromkeys(row.algorithm for row in explained)
    assert len(lines) == len(explained) + len(algorithms) + 4  # the head, two rules, what each algorithm has, and all
    for row, line in zip(explained, lines[2:], strict=False):
        assert line.startswith(f"{row.name} {row.layer} ") == (row.direction == "forward")
        assert row.algorithm in line
    assert ["forward", explained[0].algorithm] == lines[2].split()[5:7]
    assert [line.split(":")[0] for line in lines[-len(algorithms) - 1 :]] == [*algorithms, "in all"]
    assert isinstance(explained[0], Row)


def test_table_with_reasons_and_of_long_names():
    """At most 100 columns, whatever the names; every reason is there."""
    deep = model()
    for _ in range(9):
        deep = torch.nn.Sequential(OrderedDict(a_rather_long_name=deep))
    for explained in (torchconv.explain(deep, torch.randn(2, 3, 8, 8), why=why) for why in (False, True)):
        text = str(explained)
        assert max(map(len, text.splitlines())) <= 100
        words = " ".join(text.split())
        for row in explained:
            for reason in row.refused:
                assert (" ".join(reason.split()) in words) == explained.why
    assert "…" in text


def test_table_of_a_model_that_convolves_nothing():
    assert str(torchconv.explain(torch.nn.ReLU(), torch.randn(1))).startswith("no layer of this model convolves")


def test_layers_facts_and_dense_layers():
    net = torch.nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=(2, 1)), nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 10)
    )
    x = torch.randn(4, 3, 8, 6)
    rows = {row.layer: row for row in torchconv.explain(net, x) if row.direction == "forward"}
    conv, pool, dense = rows["Conv2d"], rows["MaxPool2d"], rows["Linear"]
    assert (conv.output_size, conv.kernel_size, conv.stride, conv.parameters) == ((8, 3, 4), (3, 3), (2, 1), 8 * 28)
    assert (pool.output_size, pool.kernel_size, pool.stride, pool.parameters) == ((8, 1, 2), (2, 2), (2, 2), 0)
    assert (dense.output_size, dense.kernel_size, dense.parameters) == ((10,), (), 10 * 17)
    assert (dense.algorithm, dense.multiply_adds) == ("built-in", 4 * 160)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_layers_facts_with_and_without_a_batch(batch):
    for layer, channels, sides, kernel, size in (
        (nn.Conv1d(3, 4, 3), 3, (9,), (3,), (4, 7)),
        (nn.MaxPool2d(2), 3, (8, 6), (2, 2), (3, 4, 3)),
        (nn.AvgPool3d(2), 3, (4, 4, 6), (2, 2, 2), (3, 2, 2, 3)),
    ):
        row = torchconv.explain(layer, torch.randn(*batch, channels, *sides))[0]
        assert (row.output_size, row.kernel_size) == (size, kernel)


def test_bytes_that_a_prepared_layer_holds():
    net = torchconv.convert(torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3))).eval()
    x = torch.randn(1, 16, 8, 8)
    assert {row.prepared_bytes for row in torchconv.explain(net, x)} == {0}
    with torch.no_grad():
        net(x)
    held = torchconv.explain(net, x)
    assert held[0].prepared_bytes >= net[0].weight.nbytes
    assert "between calls in evaluation" in str(held)


def test_only_modules():
    with pytest.raises(TypeError, match=r"^explain takes a torch.nn.Module, got builtin_function_or_method$"):
        torchconv.explain(torch.conv2d, torch.randn(1))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("c", "o", "side", "padding"), [(3, 96, 32, 2), (6, 16, 14, 0)])
def test_first_layers_weight_gradient_fills_vectors(c, o, side, padding, channels_last):
    """AlexNet's and LeNet's 5×5: of vectors of 16, Winograd's would be mostly empty and take longer than direct's.

    Of shorter ones LeNet's is Winograd's by measurement, and AlexNet's as good either way.
    """
    shapes = ([64, c, side, side], [o, c, 5, 5], [1, 1], [padding] * 4, [1, 1], 1)
    name, *_ = torch.ops.torchconv._explain("weight_grad", *shapes, torch.float32, channels_last, "auto")
    if torchconv.cpu_capability().startswith("avx512"):
        assert name == "direct"
    elif c == 6:
        assert name == "winograd"
