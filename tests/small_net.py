"""A network with the layers that tools look for, as torch.nn's and converted, for tests of such tools to share."""

import copy

import torch

import torchconv


def small_net():
    """[N, 3, 8, 8] -> [N, 5], in evaluation; any sides will do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(8, 8, 3, padding="same", groups=2),
            torch.nn.ReLU(),
            torch.nn.AvgPool2d(2),
            torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 5),
        ).eval()


def pair():
    """The network, converted and as it was, and an input."""
    net = small_net()
    return torchconv.convert(copy.deepcopy(net), fuse=True), net, torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def operators(graph):
    """The torchconv operators that a graph of torch.fx calls, inside of graphs that it calls too."""
    calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    inner = [m.graph for m in (graph.owning_module.modules() if graph.owning_module else ()) if hasattr(m, "graph")]
    calls += [str(node.target) for g in inner if g is not graph for node in g.nodes if node.op == "call_function"]
    return [call for call in calls if "torchconv" in call]
