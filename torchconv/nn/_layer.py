"""What every layer of this package answers tools that look for torch.nn's."""

from typing import Any, NoReturn


class _Module(str):
    """The ``__module__`` of a layer's class, which its instances give as one of torch.nn's.

    torch.fx records a call of a module as one node, instead of what happens inside, where the instance's ``__module__``
    starts with "torch.nn". There is no other way to tell all tracers.
    """

    def __get__(self, layer: Any, cls: type) -> str:
        return f"torch.nn of {self}"

    def __reduce__(self) -> tuple[type, tuple[str]]:  # pickle writes down a class's module, and reads a plain str
        return str, (str(self),)


class Layer:
    """Stands first among the bases of each layer."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__module__.startswith("torchconv.nn."):  # classes that others derive are traced through
            cls.__module__ = _Module(cls.__module__)

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script calls first."""
        raise RuntimeError(
            f"torch.jit.script cannot compile torchconv.nn.{type(self).__name__}: call torchconv.revert(model) before "
            f"it, or use torch.jit.trace, which records PyTorch's own operators"
        )


class Quantizable(Layer):
    """A layer whose namesake in torch.nn tools for quantization exchange: they look for that very class."""

    __jit_unused_properties__ = ["qconfig"]

    @property
    def qconfig(self) -> Any:
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, qconfig: Any) -> None:
        if qconfig is not None:
            raise RuntimeError(
                f"torchconv.nn.{type(self).__name__} cannot be quantized: call torchconv.revert(model) before "
                f"preparing the model (and torchconv.convert(model) on what comes out)"
            )
