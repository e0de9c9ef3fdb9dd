"""Behave as the diffusers pipeline underneath: its attributes, methods and arguments, none of them swallowed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from diffusers import DiffusionPipeline

# diffusers still takes these through **kwargs of pipelines whose signatures no longer name them.
_OLD_ARGUMENTS = frozenset({"callback", "callback_steps"})

# Methods that diffusers moved from pipelines to their autoencoders; most scripts still call them here.
_OF_AUTOENCODER = {
    f"{turn}_vae_{what}": f"{turn}_{what}"
    for turn in ("enable", "disable")
    for what in ("tiling", "slicing")
}

# Class methods of the pipeline underneath, which would return that class and lose the transparency.
_CONSTRUCTORS = frozenset({"from_single_file", "download"})


class DelegatingPipeline:
    """A pipeline that passes to `pipeline`, a diffusers pipeline, whatever it does not define itself.

    Reading, calling and assigning work as they do there: `pipe.scheduler = ...`, `pipe.load_lora_weights(...)`,
    `pipe.enable_model_cpu_offload()`, `pipe.unet`. Attributes that neither has are refused on reading and on writing.
    """

    _own: ClassVar[frozenset[str]] = frozenset()
    """The names of the attributes of the instance itself."""

    pipeline: Any
    """The diffusers pipeline."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the diffusers pipeline. Raises AttributeError."""
        if name.startswith("__") or name in self._own or name == "pipeline":
            raise AttributeError(name)  # an instance that is being copied has none yet
        if name in _OF_AUTOENCODER:
            return getattr(self.pipeline.vae, _OF_AUTOENCODER[name])
        if name not in _CONSTRUCTORS and hasattr(self.pipeline, name):
            return getattr(self.pipeline, name)
        raise AttributeError(self._unknown(name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of this pipeline or of the one underneath. Raises AttributeError for any other."""
        if name in self._own:
            object.__setattr__(self, name, value)
        elif hasattr(type(self), name) or not hasattr(self.pipeline, name):
            raise AttributeError(
                self._unknown(name, "cannot be set" if hasattr(type(self), name) else None)
            )
        else:
            self._assign(name, value)

    def __dir__(self) -> Iterable[str]:
        """List the names of both."""
        return sorted(
            {*super().__dir__(), *self._own, *_OF_AUTOENCODER, *dir(self.pipeline)} - _CONSTRUCTORS
        )

    def __repr__(self) -> str:
        """Name the class, then show the diffusers pipeline."""
        return f"{type(self).__name__} of {self.pipeline!r}"

    @property
    def components(self) -> dict[str, Any]:
        """The parts of the diffusers pipeline, ready for another one: `StableDiffusionPipeline(**pipe.components)`."""
        return dict(self.pipeline.components)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and convert as `DiffusionPipeline.to` does: `to("cuda")`, `to(torch.float16)`, `to("cuda", dtype=...)`.

        The networks of latent transparency follow to the device and stay float32: alpha needs more digits than
        bfloat16 has. Returns the pipeline itself.
        """
        self.pipeline.to(*args, **kwargs)
        self._follow(self.pipeline.device)
        return self

    def _assign(self, name: str, value: Any) -> None:
        setattr(self.pipeline, name, value)

    def _follow(self, device: Any) -> None:
        """Move what the diffusers pipeline does not know."""

    def _unknown(self, name: str, why: str | None = None) -> str:
        if why:
            return f"{type(self).__name__}.{name} {why}"
        alike = difflib.get_close_matches(name, [n for n in dir(self) if not n.startswith("_")], 1)
        hint = f"; did you mean {alike[0]!r}?" if alike else ""
        return f"neither {type(self).__name__} nor {type(self.pipeline).__name__} has an attribute {name!r}{hint}"


def bind_arguments(
    pipeline: DiffusionPipeline,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    own: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the arguments of a call by name, in the order and under the names of the diffusers pipeline.

    A number in the place of SDXL's `prompt_2` is a height: `pipe(prompt, height, width)` works for every family.

    Args:
        pipeline: the pipeline that will be called.
        args: positional arguments, the first of them the prompt.
        kwargs: named arguments.
        own: further names that are allowed, since the caller handles them.

    Raises:
        TypeError: for a name that the pipeline does not know, which diffusers itself would ignore.
    """
    known = [
        name
        for name, one in inspect.signature(type(pipeline).__call__).parameters.items()
        if _is_named(one)
    ][1:]
    order = [*known]
    if len(args) > 1 and isinstance(args[1], int) and order[1:2] == ["prompt_2"]:
        order.remove("prompt_2")
    if len(args) > len(order):
        raise TypeError(f"{type(pipeline).__name__} takes {len(order)} arguments, not {len(args)}")
    bound = dict(zip(order, args, strict=False))
    if twice := bound.keys() & kwargs.keys():
        raise TypeError(f"the argument {min(twice)!r} is given twice")
    for name in kwargs:
        if name not in {*known, *own, *_OLD_ARGUMENTS}:
            alike = difflib.get_close_matches(name, [*known, *own], 1)
            hint = f"; did you mean {alike[0]!r}?" if alike else ""
            raise TypeError(f"{type(pipeline).__name__} takes no argument {name!r}{hint}")
    return bound | dict(kwargs)


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not inspect.Parameter.VAR_KEYWORD
