"""What the tests of derivatives share: a function under vmap, and a network compiled, against the same run plainly."""

import torch


def check_vmap(function, operands):
    """Over any of the operands, three of each, along their first axis or their second, against calls one by one."""
    for batched in range(1, 2 ** len(operands)):
        in_dims = tuple(i % 2 if batched >> i & 1 else None for i in range(len(operands)))
        many = [
            t.detach() if at is None else torch.randn(3, *t.shape, dtype=t.dtype).movedim(0, at)
            for t, at in zip(operands, in_dims, strict=True)
        ]
        apart = [
            function(*(t if at is None else t.select(at, i) for t, at in zip(many, in_dims, strict=True)))
            for i in range(3)
        ]
        torch.testing.assert_close(torch.func.vmap(function, in_dims)(*many), torch.stack(apart))


def check_compiled(compiled, net, x, **tolerance):
    """Output, and the gradients of the input and all parameters."""
    x = x.detach().requires_grad_()
    y, expected = compiled(x), net(x)
    torch.testing.assert_close(y, expected)
    operands, g = (x, *net.parameters()), torch.randn_like(y)
    for mine, theirs in zip(
        torch.autograd.grad(y, operands, g), torch.autograd.grad(expected, operands, g), strict=True
    ):
        torch.testing.assert_close(mine, theirs, **tolerance)


def check_sizes(net, backend: str, dynamic: bool) -> None:
    """A network of pictures is compiled as one graph, for one size or for two."""
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=dynamic)
    for size in [(2, 3, 12, 13), (3, 3, 10, 9)] if dynamic else [(2, 3, 12, 13)]:
        check_compiled(compiled, net, torch.randn(size))


def check_exported(net, strict: bool, **counts: int) -> None:
    """A network of pictures is exported for any batch, with so many calls of each of our operators."""
    batch = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(net, (torch.randn(2, 3, 12, 13),), dynamic_shapes=batch, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert {name: targets.count(f"torchconv.{name}.default") for name in counts} == counts
    x = torch.randn(5, 3, 12, 13)
    torch.testing.assert_close(program.module()(x), net(x))
