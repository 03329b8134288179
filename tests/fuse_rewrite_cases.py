"""Modules with a forward of their own: a case says which of its calls run as one and what is said of the others."""

import contextlib

import torch
import torch.nn.functional as F
from torch.nn import BatchNorm2d, Conv2d, Identity, ModuleList, ReLU, ReLU6, Sequential

from torchconv import nn

CONV, NORM, RELU, BOTH = "Conv2d ReLU", "Conv2d BatchNorm2d", "BatchNorm2d ReLU", "Conv2d BatchNorm2d ReLU"
FUNCTION, IN_PLACE = "Conv2d relu", "Conv2d relu_in_place"


class Base(torch.nn.Module):
    def __init__(self, **layers):
        super().__init__()
        self.conv, self.other, self.norm = Conv2d(4, 4, 3, padding=1), Conv2d(4, 4, 1), BatchNorm2d(4)
        self.relu, self.many = ReLU(), ModuleList([Conv2d(4, 4, 1), BatchNorm2d(4)])
        for name, layer in layers.items():
            setattr(self, name, layer)

    def double_relu(self, x):
        return self.relu(2 * x)


def forward(steps, reasons=(), **layers):
    """A case: the forward, the layers it runs as one, and what convert says of it."""
    return lambda function: CASES.update(
        {function.__name__: (type(function.__name__, (Base,), {"forward": function}), layers, steps, reasons)}
    )


CASES = {}


@forward([BOTH])
def nested(self, x):
    return self.relu(self.norm(self.conv(x)))


@forward([BOTH])
def in_statements(self, x):
    """With a docstring

    of several lines.
    """
    x = self.conv(x)
    x = self.norm(x)
    return self.relu(x)


@forward([BOTH])
def in_statements_with_names(self, x):
    y: torch.Tensor = self.conv(x)
    z = self.norm(y)
    w = self.relu(z)
    return w + x


@forward([CONV, NORM])
def several(self, x):
    x = self.relu(self.conv(x))
    x = self.norm(self.other(x))
    return x


@forward([IN_PLACE, "Conv2d BatchNorm2d relu"])
def functions(self, x):
    x = F.relu(self.conv(x), inplace=True)
    return torch.relu(self.norm(self.other(x)))


@forward([FUNCTION, IN_PLACE])
def functions_in_place(self, x):
    return F.relu(self.other(F.relu(self.conv(x))), True)


def relu(x, flag):
    return x.relu() + 1 if flag else -x


class Own:
    @staticmethod
    def relu(x, inplace=False):
        return x.tanh() if inplace else -x


@forward([NORM])
def functions_that_only_share_its_name(self, x):
    x = relu(self.norm(self.conv(x)), True)
    x = relu(relu(self.other(x), False), True)
    return Own.relu(Own.relu(self.other(x), inplace=True)) + Own.relu(self.conv(x), inplace=False)


@forward([FUNCTION] * 3)
def in_loops_and_branches(self, x):
    for _ in range(2):
        x = self.conv(x)
        x = F.relu(x)
    if x.sum() > -1e9:
        x = self.other(x)
        x = torch.relu(x)
    return x


@forward([NORM])
def a_list(self, x):
    return self.many[1](self.many[0](x))


@forward([NORM])
def in_a_loop_over_layers(self, x):
    for conv, norm in zip([self.many[0]], [self.many[1]], strict=True):
        x = norm(conv(x))
    return x


@forward([NORM])
def a_local_variable_for_a_layer(self, x):
    norm = self.norm
    return norm(self.conv(x))


@forward([BOTH], norm=Sequential(BatchNorm2d(4)), middle=BatchNorm2d(4))
def not_the_modules_in_modules(self, x):
    return self.norm(self.relu(self.middle(self.conv(x))))


@forward([CONV])
def a_skip_of_the_input(self, x):
    return self.relu(self.conv(x)) + x


@forward([])
def a_skip(self, x):
    y = self.conv(x)
    return self.relu(y) + y


@forward([])
def two_outputs(self, x):
    y = self.conv(x)
    z = self.relu(y)
    return z, y


@forward([])
def used_by_name_elsewhere(self, x):
    y = self.conv(x)
    z = self.relu(y)
    return z + (lambda: y)()


@forward([CONV])
def given_by_name(self, x):
    return self.relu(self.norm(input=self.relu(self.conv(x))))


@forward([])
def something_between(self, x):
    x = self.conv(x)
    x = x + 1
    return self.relu(x)


@forward([])
def a_layer_of_another_class(self, x):
    return self.other(torch.nn.ReLU6()(self.conv(x)))


@forward([])
def a_method(self, x):
    return self.double_relu(self.conv(x))


@forward([CONV])
def after_an_error(self, x):
    with contextlib.suppress(ZeroDivisionError):
        x = self.conv(x)
        x = self.failing(x)
    try:
        y = self.conv(x)
        y = self.failing(y)
    except ZeroDivisionError:
        pass
    return self.relu(self.other(y))


def failing(self, x):
    raise ZeroDivisionError


Base.failing = failing


@forward([CONV], extra=Identity())
def through_what_gives_what_it_is_given(self, x):
    return self.relu(self.extra(self.conv(x)))


@forward([NORM])
def a_dead_branch(self, x):
    x = self.norm(self.conv(x))
    if self.training and False:
        x = self.nothing_of_this_name(self.conv(x))
    return x


@forward([RELU, CONV])
def arguments(self, x, *more, flag=True, **others):
    x = x if flag and not more else x[0]
    return self.relu(self.conv(self.relu(self.norm(x))))


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


HOOKED = ("conv (Conv2d): not fused with relu (ReLU): a hook is on it",)


@forward([NORM], HOOKED, relu=hooked(ReLU()))
def a_hook(self, x):
    return self.relu(self.norm(self.conv(x)))


DERIVED = type("Mine", (nn.Conv2d,), {})


@forward(
    [], ("conv (Mine): not fused with relu (ReLU): its class derives from torchconv.nn.Conv2d",), conv=DERIVED(4, 4, 1)
)
def a_derived_class(self, x):
    return self.relu(self.conv(x))


@forward([], relu=ReLU6())
def another_activation(self, x):
    return self.relu(self.conv(x))
