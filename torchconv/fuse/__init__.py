"""Fusing: neighbouring layers run as one operator by whoever runs them one after the other.

Layers stay what they are, and each is right when called alone. What changes is the class of the modules that run a
sequence of them: a torch.nn.Sequential, and a module whose `forward` calls one layer on another's output. At each call
these look at the layers as they are then, so that no edit of a model makes it wrong.

    plan.py        which layers of a sequence are run as one: patterns, and what keeps a layer to itself
    runners.py     how: a function for each pattern
    blame.py       which of them an error came from
    rewrite.py     a method with its chains of calls handed to `plan.run`, everything else as it was written
    containers.py  the classes that convert gives to modules, and takes back
"""

from .containers import join, original_container

__all__ = ["join", "original_container"]
