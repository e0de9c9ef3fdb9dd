"""Delegation to an underlying diffusers pipeline: its attributes, methods and arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from diffusers import DiffusionPipeline

# diffusers still accepts these through **kwargs though its signatures no longer name them.
_OLD_ARGUMENTS = frozenset({"callback", "callback_steps"})

# Methods that diffusers moved from pipelines to autoencoders; most scripts still call them here.
_OF_AUTOENCODER = {
    f"{action}_vae_{feature}": f"{action}_{feature}"
    for action in ("enable", "disable")
    for feature in ("tiling", "slicing")
}

# Class methods of the underlying pipeline, which would return that class, without transparency.
_CONSTRUCTORS = frozenset({"from_single_file", "download"})


class DelegatingPipeline:
    """A pipeline that passes everything it does not define to `pipeline`, a diffusers pipeline.

    Reading, calling and assigning work as they do there: `pipe.scheduler = ...`,
    `pipe.load_lora_weights(...)`, `pipe.enable_model_cpu_offload()`, `pipe.unet`. Attributes that
    neither pipeline has raise AttributeError on reading and on writing.
    """

    _own: ClassVar[frozenset[str]] = frozenset()
    """The names of the instance's own attributes."""

    pipeline: Any
    """The diffusers pipeline."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the diffusers pipeline.

        Raises:
            AttributeError: Neither pipeline has it.
        """
        if name.startswith("__") or name in self._own or name == "pipeline":
            raise AttributeError(name)  # an instance that is being copied has no attributes yet
        if name in _OF_AUTOENCODER:
            return getattr(self.pipeline.vae, _OF_AUTOENCODER[name])
        if name not in _CONSTRUCTORS and hasattr(self.pipeline, name):
            return getattr(self.pipeline, name)
        raise AttributeError(self._unknown(name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of this pipeline or of the underlying one.

        Raises:
            AttributeError: Neither pipeline has it, or it cannot be set.
        """
        if name in self._own:
            object.__setattr__(self, name, value)
        elif hasattr(type(self), name) or not hasattr(self.pipeline, name):
            raise AttributeError(
                self._unknown(name, "cannot be set" if hasattr(type(self), name) else None)
            )
        else:
            self._assign(name, value)

    def __dir__(self) -> Iterable[str]:
        """List the attribute names of both pipelines."""
        return sorted(
            {*super().__dir__(), *self._own, *_OF_AUTOENCODER, *dir(self.pipeline)} - _CONSTRUCTORS
        )

    def __repr__(self) -> str:
        """Return the class name and the diffusers pipeline."""
        return f"{type(self).__name__} of {self.pipeline!r}"

    @property
    def components(self) -> dict[str, Any]:
        """The components of the diffusers pipeline, from which another one can be made."""
        return dict(self.pipeline.components)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and convert the pipeline as `DiffusionPipeline.to` does.

        The networks of latent transparency move to the device too, but stay float32: alpha needs
        more precision than bfloat16 has.

        Args:
            args (`Any`):
                A device, a dtype, or both, as `DiffusionPipeline.to` accepts them.
            kwargs (`Any`):
                Its keyword arguments, such as `dtype`.

        Returns:
            The pipeline itself.
        """
        self.pipeline.to(*args, **kwargs)
        self._follow(self.pipeline.device)
        return self

    def _assign(self, name: str, value: Any) -> None:
        """Set an attribute of the diffusers pipeline."""
        setattr(self.pipeline, name, value)

    def _follow(self, device: Any) -> None:
        """Move the components that the diffusers pipeline does not have."""

    def _unknown(self, name: str, reason: str | None = None) -> str:
        """Return the error message for an attribute, with a close match if there is one."""
        if reason:
            return f"{type(self).__name__}.{name} {reason}"
        close = difflib.get_close_matches(
            name, [attribute for attribute in dir(self) if not attribute.startswith("_")], 1
        )
        hint = f"; did you mean {close[0]!r}?" if close else ""
        kinds = f"neither {type(self).__name__} nor {type(self.pipeline).__name__}"
        return f"{kinds} has an attribute {name!r}{hint}"


def bind_arguments(
    pipeline: DiffusionPipeline,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    extra_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Bind the arguments of a call to the parameter names of the diffusers pipeline.

    An integer in the position of SDXL's `prompt_2` is taken as the height, so that `pipe(prompt,
    height, width)` works for every family.

    Args:
        pipeline (`DiffusionPipeline`):
            The pipeline that will be called.
        args (`Sequence[Any]`):
            The positional arguments, the first of which is the prompt.
        kwargs (`Mapping[str, Any]`):
            The keyword arguments.
        extra_names (`Sequence[str]`, *optional*):
            Further names that are allowed, since the caller handles them.

    Returns:
        `dict[str, Any]`: The arguments by name.

    Raises:
        TypeError: The pipeline does not have the parameter, which diffusers itself would ignore, or
            an argument is given twice.
    """
    # The first parameter is self.
    known = [
        name
        for name, parameter in inspect.signature(type(pipeline).__call__).parameters.items()
        if _is_named(parameter)
    ][1:]
    # SDXL's second positional parameter is prompt_2; skip it for a number.
    order = [*known]
    if len(args) > 1 and isinstance(args[1], int) and order[1:2] == ["prompt_2"]:
        order.remove("prompt_2")
    if len(args) > len(order):
        raise TypeError(f"{type(pipeline).__name__} takes {len(order)} arguments, not {len(args)}")
    bound = dict(zip(order, args, strict=False))
    if repeated := bound.keys() & kwargs.keys():
        raise TypeError(f"the argument {min(repeated)!r} is given twice")
    # diffusers ignores unknown keyword arguments; a misspelled name must not be ignored.
    for name in kwargs:
        if name not in {*known, *extra_names, *_OLD_ARGUMENTS}:
            close = difflib.get_close_matches(name, [*known, *extra_names], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{type(pipeline).__name__} takes no argument {name!r}{hint}")
    return bound | dict(kwargs)


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not inspect.Parameter.VAR_KEYWORD
