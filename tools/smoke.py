"""Ten seconds of everything, in whatever environment runs it: each operator against PyTorch's own, with gradients,
and a converted network, compiled. Run as a file, it looks at the torchconv that is installed: python tools/smoke.py
"""

import sys
import time

import torch
from torch.nn import functional as F

import torchconv
import torchconv.functional as T


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(name: str, ours, theirs, dtype: torch.dtype) -> None:
    bound = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
    for a, b in zip(ours, theirs, strict=True):
        error = (a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)
        assert a.shape == b.shape, (name, a.shape, b.shape)
        assert error <= bound, f"{name} {dtype}: {error:.2e}"


def agree(name: str, ours, theirs, *operands: torch.Tensor, dtypes=(torch.float32, torch.float64)) -> None:
    """Results and gradients, against the built-in in double precision."""
    for dtype in dtypes:
        results = []
        for call, precision in ((ours, dtype), (theirs, torch.float64)):
            held = [x.to(dtype).to(precision).requires_grad_() for x in operands]
            y = call(*held)
            torch.manual_seed(1)
            seed = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(precision)
            results.append([y, *torch.autograd.grad(y, held, seed)])
        close(name, *results, dtype)


def convolutions() -> None:
    types = (torch.float32, torch.float64, torch.bfloat16)
    for n, f, g in ((1, T.conv1d, F.conv1d), (2, T.conv2d, F.conv2d), (3, T.conv3d, F.conv3d)):
        for kernel, stride, groups in ((3, 1, 1), (3, 2, 2), (5, 1, 1), (1, 1, 1), (3, 1, 16), (7, 2, 1)):
            x, w, b = draw(2, 16, *[9] * n), draw(32, 16 // groups, *[kernel] * n), draw(32)
            settings = dict(stride=stride, padding=kernel // 2, groups=groups)

            def ours(*a, f=f, settings=settings):
                return f(*a, **settings)

            def theirs(*a, g=g, settings=settings):
                return g(*a, **settings)

            name = f"conv{n}d {kernel}/{stride} {groups}"
            agree(name, ours, theirs, x, w, b, dtypes=types)
            if n == 2:
                last = x.contiguous(memory_format=torch.channels_last)
                agree(f"{name} channels-last", ours, theirs, last, w, b, dtypes=types)
    for n, f, g in ((1, T.conv_transpose1d, F.conv_transpose1d), (2, T.conv_transpose2d, F.conv_transpose2d)):
        x, w = draw(2, 16, *[9] * n), draw(16, 8, *[3] * n)
        agree(f"conv_transpose{n}d", lambda *a, f=f: f(*a, stride=2), lambda *a, g=g: g(*a, stride=2), x, w)
    x, w = draw(2, 16, 12, 12), draw(16, 16, 3, 3)
    for algorithm in ("reference", "direct", "gemm", "winograd", "fft"):
        ours = lambda *a, by=algorithm: T.conv2d(*a, padding=1, algorithm=by)  # noqa: E731
        agree(algorithm, ours, lambda *a: F.conv2d(*a, padding=1), x, w, dtypes=(torch.float32,))


def poolings() -> None:
    for shape in ((2, 20, 12, 12), (2, 3, 13, 17)):
        for last in (False, True):
            x = draw(*shape)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)):
                name = f"pool {shape} {size} {stride} {last}"
                settings = dict(stride=stride, padding=padding)
                for f, g in ((T.max_pool2d, F.max_pool2d), (T.avg_pool2d, F.avg_pool2d)):
                    agree(name, lambda a, f=f: f(a, size, **settings), lambda a, g=g: g(a, size, **settings), x)
    x = draw(2, 3, 20)
    agree("max_pool1d", lambda a: T.max_pool1d(a, 3), lambda a: F.max_pool1d(a, 3), x)
    agree("adaptive", lambda a: T.adaptive_avg_pool1d(a, 7), lambda a: F.adaptive_avg_pool1d(a, 7), x)


def others() -> None:
    x, w, b = draw(4, 10, 6, 6), draw(10), draw(10)
    for beta in (0.75, 0.6):
        agree(
            "local_response_norm",
            lambda a: T.local_response_norm(a, 5, beta=beta),
            lambda a: F.local_response_norm(a, 5, beta=beta),
            x,
        )
    agree(
        "batch_norm",
        lambda *a: T.batch_norm(a[0], None, None, a[1], a[2], training=True, activation="relu"),
        lambda *a: F.relu(F.batch_norm(a[0], None, None, a[1], a[2], training=True)),
        *(x, w, b),
    )


def network() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 16, 3, padding=1, groups=16),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 16, 10),
    )
    x = torch.randn(4, 3, 16, 16)
    expected = model(x)
    converted = torchconv.convert(model)
    close("converted", [converted(x)], [expected], torch.float32)
    compiled = torch.compile(converted, backend="aot_eager", fullgraph=True)
    close("compiled", [compiled(x)], [expected], torch.float32)
    compiled(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    weight = draw(4, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: T.conv2d(a, c, stride=2), (draw(2, 3, 5, 5).requires_grad_(), weight))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    start = time.monotonic()
    for part in (convolutions, poolings, others, *([] if "--no-network" in sys.argv else [network])):
        part()
    seconds = time.monotonic() - start
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {python}, torch {torch.__version__}, {torchconv.cpu_capability()}: right, {seconds:.0f} s")


if __name__ == "__main__":
    main()
