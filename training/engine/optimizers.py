"""Optimizers by name: three implementations of AdamW, Adafactor, Lion and Prodigy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Adafactor, AdamW, Optimizer

from curation.errors import NotFound, Refused

Betas = tuple[float, float]


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    betas: Betas = (0.9, 0.99),
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
) -> Optimizer:
    """Build an optimizer over the trainable parameters, in one parameter group.

    Args:
        name: The preset's column `optimizer`.
        parameters: The parameters; those without `requires_grad` are left out.
        lr: Full learning rate, kept as the group's `initial_lr` while the schedule changes `lr`.
        betas: Coefficients of the running averages.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Largest gradient norm, kept in the group; 0 turns clipping off.

    Raises:
        NotFound: There is no such optimizer.
        Refused: Its library is not installed.
    """
    try:
        build = _BUILDERS[name]
    except KeyError:
        raise NotFound(f"no optimizer {name!r}", f"choose one of {', '.join(_BUILDERS)}") from None
    group = {
        "params": [p for p in parameters if p.requires_grad],
        "initial_lr": lr,
        "clip": max_grad_norm,
    }
    return build([group], lr, betas, weight_decay)


def _adamw(groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float) -> Optimizer:
    return AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)


def _adamw_fused(
    groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float
) -> Optimizer:
    return AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def _adamw_8bit(
    groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float
) -> Optimizer:
    """Build 8-bit AdamW (Dettmers et al., 2022, arXiv 2110.02861): a quarter of the memory."""
    try:
        import bitsandbytes
    except ImportError as error:
        hint = "pip install bitsandbytes, or choose adamw_fused"
        raise Refused(
            f"adamw8bit needs the library bitsandbytes, which cannot be imported: {error}", hint
        ) from error
    optimizer: Optimizer = bitsandbytes.optim.AdamW8bit(
        groups, lr=lr, betas=betas, weight_decay=weight_decay
    )
    return optimizer


def _adafactor(
    groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float
) -> Optimizer:
    """Build Adafactor (Shazeer and Stern, 2018, arXiv 1804.04235): factored second moments."""
    del betas
    return Adafactor(groups, lr=lr, weight_decay=weight_decay)


def _lion(groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float) -> Optimizer:
    """Build Lion (Chen et al., 2023, arXiv 2302.06675); its rate is 1/3 to 1/10 of AdamW's."""
    optimizer: Optimizer = _import_pytorch_optimizer().Lion(
        groups, lr=lr, betas=betas, weight_decay=weight_decay
    )
    return optimizer


def _prodigy(
    groups: list[dict[str, Any]], lr: float, betas: Betas, weight_decay: float
) -> Optimizer:
    """Build Prodigy (Mishchenko and Defazio, 2024, arXiv 2306.06101); its rate is normally 1."""
    optimizer: Optimizer = _import_pytorch_optimizer().Prodigy(
        groups, lr=lr, betas=betas, weight_decay=weight_decay, safeguard_warmup=True
    )
    return optimizer


def _import_pytorch_optimizer() -> Any:
    """Import pytorch-optimizer, for optimizers that torch does not have."""
    try:
        import pytorch_optimizer
    except ImportError as error:
        hint = "pip install pytorch-optimizer, or choose adamw_fused"
        raise Refused(
            f"lion and prodigy need the library pytorch-optimizer: {error}", hint
        ) from error
    return pytorch_optimizer


_BUILDERS: dict[str, Callable[[list[dict[str, Any]], float, Betas, float], Optimizer]] = {
    "adamw": _adamw,
    "adamw_fused": _adamw_fused,
    "adamw8bit": _adamw_8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "prodigy": _prodigy,
}
