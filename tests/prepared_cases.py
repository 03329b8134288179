"""What tests of prepared layers share: a network, how its answers are checked, and what users do to its weights."""

import copy

import torch
from torch import nn

import torchconv


def net() -> nn.Sequential:
    """A convolution with a norm and a ReLU, one with a norm, one alone: in a sequence, so that they run in one call."""
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False)
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    for m in model:
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(), m.running_var.uniform_(0.5, 2)
    return torchconv.convert(model.eval())


def kept(model: nn.Module) -> int:
    return sum(vars(m)["_kept"].bytes() for m in model.modules() if "_kept" in vars(m))


def expected(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torchconv.disabled(), torch.no_grad():
        return model(x)


def check(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        first, second = model(x), model(x)
    torch.testing.assert_close(first, expected(model, x), rtol=1e-4, atol=1e-5)  # three layers of rounding
    assert torch.equal(first, second)


X = torch.linspace(-1, 1, 2 * 3 * 9 * 9).view(2, 3, 9, 9)


def sgd_step(m):
    m[0].weight.grad = torch.ones_like(m[0].weight)
    torch.optim.SGD([m[0].weight], 0.1).step()


def adam_step(m):
    for p in m.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.AdamW(m.parameters(), 0.1, foreach=True).step()


def averaged(m):
    ema = torch.optim.swa_utils.AveragedModel(m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    other = copy.deepcopy(m)
    with torch.no_grad():
        other[0].weight.mul_(3)
    ema.update_parameters(other), ema.update_parameters(other)
    m.load_state_dict(ema.module.state_dict())


def doubled_state(m):
    return {name: v * 2 if v.is_floating_point() else v for name, v in m.state_dict().items()}


def fused_step(m):
    m[0].weight.grad = torch.ones_like(m[0].weight)
    torch.optim.SGD([m[0].weight], 0.1, fused=True).step()


def norm_alone(m):
    m[1].train(), m[1](3 * torch.randn(4, 8, 5, 5)), m[1].eval()


def a_shared_vector(m):
    """At the first call parameters become views of it, at the others it is written to."""
    if "vector" in vars(m):
        m.vector.mul_(1.5)
    else:
        m.vector = nn.utils.parameters_to_vector(m.parameters()).detach()
        nn.utils.vector_to_parameters(m.vector, m.parameters())


def a_list(m):
    if type(m[3].stride) is list:
        m[3].stride[0] = 2
    else:
        m[3].stride = [1, 1]


@torch.inference_mode()
def inference_tensors(m):
    m[1].running_mean = torch.ones(8)
    m[0].weight = nn.Parameter(m[0].weight * 2, requires_grad=False)


CHANGES = {
    "a fused optimizer": fused_step,
    "the norm alone in training": norm_alone,
    "a shared vector": a_shared_vector,
    "a list": a_list,
    "inference tensors": inference_tensors,
    "data written to": lambda m: m[0].weight.data.mul_(2),
    "an array of its memory": lambda m: m[0].weight.detach().numpy().__imul__(2),
    "a view of the same memory": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach().transpose(2, 3))),
    "data viewed": lambda m: setattr(m[0].weight, "data", m[0].weight.data.transpose(2, 3)),
    "fewer filters": lambda m: (
        setattr(m[5], "bias", None),
        setattr(m[5], "weight", nn.Parameter(m[5].weight.detach()[:2])),
    ),
    "expanded": lambda m: setattr(m[1], "running_mean", m[1].running_mean[:1].expand(8)),
    "in place": lambda m: m[0].weight.detach().mul_(2),
    "no_grad": lambda m: torch.no_grad()(m[3].weight.add_)(1),
    "a bias": lambda m: torch.no_grad()(m[5].bias.add_)(1),
    "fill by index": lambda m: torch.no_grad()(m[0].weight.__setitem__)((0, 0), 3.0),
    "a new parameter": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach() * 2)),
    "no bias": lambda m: setattr(m[5], "bias", None),
    "load_state_dict": lambda m: m.load_state_dict(doubled_state(m)),
    "load_state_dict(assign=True)": lambda m: m.load_state_dict(doubled_state(m), assign=True),
    "data replaced": lambda m: setattr(m[0].weight, "data", m[0].weight.data * 2),
    "vector_to_parameters": lambda m: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(m.parameters()).detach() * 2, m.parameters()
    ),
    "SGD": sgd_step,
    "AdamW": adam_step,
    "averaging": averaged,
    "init": lambda m: nn.init.normal_(m[0].weight),
    "apply": lambda m: m.apply(lambda layer: layer.reset_parameters() if isinstance(layer, nn.Conv2d) else None),
    "statistics": lambda m: m[1].running_var.mul_(4),
    "statistics replaced": lambda m: setattr(m[1], "running_mean", torch.ones(8)),
    "the norm's weight": lambda m: torch.no_grad()(m[4].weight.mul_)(3),
    "eps": lambda m: setattr(m[1], "eps", 0.5),
    "another norm": lambda m: m.__setitem__(1, nn.BatchNorm2d(8).eval()),
    "no norm": lambda m: m.__setitem__(1, nn.Identity()),
    "no ReLU": lambda m: m.__setitem__(2, nn.Identity()),
    "another layer": lambda m: m.__setitem__(3, torchconv.nn.Conv2d(8, 8, 3, groups=8).eval()),
    "the window": lambda m: setattr(m[3], "padding", (1, 1)),
    "the norm in training": lambda m: m[1].train(),
    "a hook": lambda m: m[0].register_forward_hook(lambda layer, args, y: y * 2),
    "train and eval": lambda m: (m.train(), m(X), m.eval()),
    "double": lambda m: m.double().float(),
    "requires_grad_": lambda m: m.requires_grad_(False),
    "weight norm": lambda m: hasattr(m[0], "parametrizations") or nn.utils.parametrizations.weight_norm(m[0]),
    "channels-last": lambda m: m.to(memory_format=torch.channels_last),
    "revert": lambda m: torchconv.revert(m),
    "to_empty": lambda m: (m.to_empty(device="cpu"), m.load_state_dict(net().state_dict())),
}
