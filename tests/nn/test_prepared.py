"""What layers keep of their filters in evaluation: it is true of the layers as they are, and belongs to them alone."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from conv_cases import LAYOUTS, bound, exact, operands, relative_error
from prepared_cases import CHANGES, X, check, expected, kept, net
from shapes import CASES, ConvCase
from small_net import small_net
from torch import nn

import torchconv
from torchconv.ops import activation_format

ops = torch.ops.torchconv


def prepared(case: ConvCase, x, w, b, algorithm="auto", relu=False):
    last = activation_format(x, w) != torch.contiguous_format
    window = list(case.stride), list(case.flat_padding), list(case.dilation), case.groups
    return ops._prepare_convolution(w, b, list(x.shape), *window, last, algorithm, relu)


@pytest.mark.parametrize("case", [c for c in CASES if c.input[0] > 0 and c.input[1] > 0], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_prepared_filters_give_the_convolution(case: ConvCase, layout: str, dtype: torch.dtype, threads) -> None:
    x, w, b, g = operands(case, dtype, layout)
    window = list(case.stride), list(case.flat_padding), list(case.dilation), case.groups
    for algorithm in ("auto", *ops._algorithms()):
        try:
            filters = prepared(case, x, w, b, algorithm)
        except RuntimeError:  # the algorithm cannot run this one
            continue
        if filters.numel() == 0:
            continue
        y = ops._run_prepared(x, [filters])
        plain = ops.convolution(x, w, b, *window, algorithm)
        assert (y.shape, y.dtype) == (plain.shape, dtype)
        if dtype == torch.float32:
            name = "winograd" if algorithm == "auto" else algorithm
            assert relative_error(y, exact(case, "forward", x, w, b, g)) <= bound(name, dtype, "forward"), algorithm
        elif algorithm != "auto":
            assert torch.equal(y, plain)
        for count in (1, 3):
            threads(count)
            assert torch.equal(ops._run_prepared(x, [filters]), y)
        positive = ops._run_prepared(x, [prepared(case, x, w, b, algorithm, relu=True)])
        assert torch.equal(positive, y.relu())


def test_what_was_not_prepared_here_is_refused() -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    filters = ops._prepare_convolution(w, None, [1, 2, 5, 5], [1, 1], [0] * 4, [1, 1], 1, False, "auto", False)
    for wrong in (filters[:-1], torch.zeros_like(filters), filters.view(torch.int8), torch.empty(0, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match="not of this process"):
            ops._run_prepared(x, [wrong])
    for other in (torch.randn(2, 2, 5, 5), torch.randn(1, 2, 5, 6), x.double()):
        with pytest.raises(RuntimeError, match="prepared for"):
            ops._run_prepared(other, [filters])
    with pytest.raises(RuntimeError, match="nothing was prepared"):
        ops._run_prepared(x, [])
    with pytest.raises(RuntimeError, match="bias of shape"):
        ops._prepare_convolution(w, w, [1, 2, 5, 5], [1, 1], [0] * 4, [1, 1], 1, False, "auto", False)


# ---- layers ----


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_weight_is_seen(change: str) -> None:
    model = net()
    check(model, X)
    for _ in range(2):
        CHANGES[change](model)
        check(model, X)


def test_what_cannot_be_seen_is_seen_after_prepare_or_train() -> None:
    for again in (torchconv.prepare, lambda m: m.train().eval(), lambda m: torchconv.prepare(m, X)):
        model = net()
        check(model, X)
        model[0].weight.data[1, 2, 1, 1] += 3  # too little to be met with
        again(model)
        check(model, X)


def test_filters_belong_to_their_layer() -> None:
    model = net()
    state = model.state_dict()
    assert kept(model) == 0
    check(model, X)
    size = kept(model)
    assert 0 < size < 64 * sum(p.numel() * 4 for p in model.parameters()) + 6 * 1024  # small filters fill cache lines
    assert model.state_dict().keys() == state.keys()
    assert len(list(model.buffers())) == 6
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)
    for other in copies:
        assert kept(other) == 0
        check(other, X)
        assert kept(other) == size
    model.train()
    assert kept(model) == 0
    model.eval()
    check(model, X)
    model.double()
    assert kept(model) == 0
    check(model.float(), X)
    torchconv.revert(model)
    assert kept(model) == 0
    assert not any("prepares" in vars(m) for m in model.modules())


def test_at_most_two_shapes_are_kept_and_none_where_all_are_new() -> None:
    model = net()
    with torch.no_grad():
        model(X)
        size = kept(model)
        for n in range(3, 12):
            model(X[:1].expand(n, -1, -1, -1))
            assert kept(model) <= 2 * size
        entries = vars(model[0])["_kept"].entries
        model(X[:1].expand(20, -1, -1, -1))
        assert vars(model[0])["_kept"].entries is entries  # no more: none was used again
    check(torchconv.prepare(model), X)
    assert kept(model) == size


def test_a_layer_without_its_training_flag_runs_as_torch_s_does() -> None:
    layer = torchconv.nn.Conv2d(3, 4, 3)
    y = layer(X)
    del layer.training
    assert torch.equal(layer(X), y)


def test_prepare_false_keeps_nothing() -> None:
    model = torchconv.convert(net(), prepare=False)
    check(model, X)
    assert kept(model) == 0
    check(torchconv.convert(model), X)
    assert kept(model) > 0


def test_gradients_are_those_of_the_layers_as_they_are() -> None:
    model, plain = net(), torchconv.convert(net(), prepare=False)
    plain.load_state_dict(model.state_dict())
    check(model, X)
    grads = []
    for m in (model, plain):
        x = X.clone().requires_grad_()
        m(x).square().sum().backward()
        grads.append([x.grad, *[p.grad for p in m.parameters()]])
    assert all(map(torch.equal, *grads))
    for p in model.parameters():
        p.requires_grad_(False)
    x = X.clone().requires_grad_()
    model(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    held = kept(model)
    model(X)  # nothing asks for a gradient: prepared with grad mode on
    assert kept(model) == held > 0


def test_modes_and_transforms() -> None:
    model = net()
    with torch.inference_mode():
        y = model(X)
        assert kept(model) > 0
        assert torch.equal(model(X), y)
    torch.testing.assert_close(y.clone(), expected(model, X), rtol=1e-4, atol=1e-5)
    check(model, X)
    state = dict(model.named_parameters())
    with torch.no_grad():
        each = torch.func.vmap(lambda one: model(one[None])[0])(X)
        torch.testing.assert_close(each, expected(model, X), rtol=1e-4, atol=1e-5)
        doubled = torch.func.functional_call(model, {name: p * 2 for name, p in state.items()}, X)
        other = net()
        other.load_state_dict({**model.state_dict(), **{name: p * 2 for name, p in state.items()}})
        torch.testing.assert_close(doubled, expected(other, X), rtol=1e-4, atol=1e-4)
        _, tangent = torch.func.jvp(model, (X,), (X,))
        assert tangent.abs().sum() > 0
        with torch.autocast("cpu", torch.bfloat16):
            assert model(X).dtype == torch.bfloat16
    check(model, X)
    with torch.inference_mode():  # whose tensors have no versions
        born = net()
        y = born(X)
        born[0].weight.mul_(2)
        assert kept(born) == 0
        assert not torch.equal(born(X), y)


def test_compile_and_export_see_the_operators() -> None:
    model = net()
    check(model, X)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(X)
        torch.testing.assert_close(compiled, expected(model, X), rtol=1e-4, atol=1e-5)
    program = torch.export.export(model, (X,))
    assert "prepare" not in str(program.graph)
    torch.testing.assert_close(program.module()(X), expected(model, X), rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, X)
    assert "_prepared" not in str(traced.inlined_graph)


def test_threads_share_a_model(threads) -> None:
    threads(1)
    model, inputs = net(), [X[:, :, : 9 - i] for i in range(4)]
    wanted = [expected(model, x) for x in inputs]
    wrong = []

    def work(i: int) -> None:
        with torch.no_grad():
            for step in range(100):
                k = (i + step) % 4
                if not torch.allclose(model(inputs[k]), wanted[k], rtol=1e-4, atol=1e-5):
                    wrong.append((i, step))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("invariance", ["set_batch_invariant", "deterministic"])
def test_a_sample_s_result_does_not_depend_on_its_batch_where_that_is_asked_for(invariance: str, request) -> None:
    if invariance == "deterministic":
        torch.use_deterministic_algorithms(True)
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    else:
        request.getfixturevalue("batch_invariant")
    layers = nn.Conv2d(16, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)
    model = torchconv.convert(nn.Sequential(*layers, nn.BatchNorm2d(64)).eval())
    for side in (2, 4, 12):
        x = torch.randn(9, 16, side, side)
        with torch.no_grad():
            together = model(x)
            for n in (0, 4):
                assert torch.equal(model(x[n : n + 1])[0], together[n])
                assert torch.equal(model(x[n : n + 1])[0], together[n])


def test_precision_is_that_of_the_call() -> None:
    conv = torchconv.nn.Conv2d(16, 16, 3, padding=1, bias=False).eval()
    x = (torch.arange(16.0 * 16 * 16).view(1, 16, 16, 16) % 7 > 3).float()
    with torch.no_grad():
        conv.weight.fill_(1)
        plain = conv(x)
        with torchconv.precision("highest"):
            assert torch.equal(conv(x), conv(x).round())
        torchconv.set_conv_precision("highest")
        try:
            assert torch.equal(conv(x), conv(x).round())
        finally:
            torchconv.set_conv_precision("high")
        assert torch.equal(conv(x), plain)
        conv.algorithm = "direct"
        assert torch.equal(conv(x), conv(x).round())


def test_small_net_and_its_switches_leave_memory_flat() -> None:
    """What is kept is dropped by each switch to training, and bounded over many shapes."""
    model, x = torchconv.convert(small_net()), torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    with torch.no_grad():
        model(x)
        size = kept(model)
        for _ in range(20):
            model.train(), model.eval(), model(x)
            assert kept(model) == size
        for side in range(8, 28):
            model(torch.randn(1, 3, side, side))
            assert kept(model) < 64 * size
