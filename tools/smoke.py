"""Ten seconds of everything, in whatever environment runs it: each operator against PyTorch's own, with gradients,
and a converted network, compiled. Run as a file, it looks at the torchconv that is installed: python tools/smoke.py
"""

import sys
import time
from functools import partial

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

            ours, theirs = partial(f, **settings), partial(g, **settings)
            name = f"conv{n}d {kernel}/{stride} {groups}"
            agree(name, ours, theirs, x, w, b, dtypes=types)
            if n == 2:
                last = x.contiguous(memory_format=torch.channels_last)
                agree(f"{name} channels-last", ours, theirs, last, w, b, dtypes=types)
    for n, f, g in ((1, T.conv_transpose1d, F.conv_transpose1d), (2, T.conv_transpose2d, F.conv_transpose2d)):
        x, w = draw(2, 16, *[9] * n), draw(16, 8, *[3] * n)
        agree(f"conv_transpose{n}d", partial(f, stride=2), partial(g, stride=2), x, w)
    for x, w in ((draw(2, 16, 12, 12), draw(16, 16, 3, 3)), (draw(1, 1, 12, 12), draw(1, 1, 3, 3))):
        for algorithm in ("reference", "direct", "winograd", "fft"):
            ours = partial(T.conv2d, padding=1, algorithm=algorithm)
            agree(algorithm, ours, partial(F.conv2d, padding=1), x, w, dtypes=(torch.float32,))


def poolings() -> None:
    for shape in ((2, 20, 12, 12), (2, 3, 13, 17)):
        for last in (False, True):
            x = draw(*shape)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)):
                name = f"pool {shape} {size} {stride} {last}"
                settings = dict(kernel_size=size, stride=stride, padding=padding)
                for f, g in ((T.max_pool2d, F.max_pool2d), (T.avg_pool2d, F.avg_pool2d)):
                    agree(name, partial(f, **settings), partial(g, **settings), x)
    x = draw(2, 3, 20)
    agree("max_pool1d", partial(T.max_pool1d, kernel_size=3), partial(F.max_pool1d, kernel_size=3), x)
    adaptive = T.adaptive_avg_pool1d, F.adaptive_avg_pool1d
    agree("adaptive", *(partial(f, output_size=7) for f in adaptive), x)


def others() -> None:
    x, w, b = draw(4, 10, 6, 6), draw(10), draw(10)
    for beta in (0.75, 0.6):
        norms = T.local_response_norm, F.local_response_norm
        agree("local_response_norm", *(partial(f, size=5, beta=beta) for f in norms), x)

    def ours(x, w, b):
        return T.batch_norm(x, None, None, w, b, training=True, activation="relu")

    def theirs(x, w, b):
        return F.relu(F.batch_norm(x, None, None, w, b, training=True))

    agree("batch_norm", ours, theirs, x, w, b)


def expected_now(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torchconv.disabled():
        return model(x)


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
    model.eval(), converted.eval()
    with torch.no_grad():
        for _ in range(3):  # the later ones by what the first one kept
            close("in evaluation", [converted(x)], [expected_now(model, x)], torch.float32)
    model.train(), converted.train()
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
