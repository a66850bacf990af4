"""What a term learns and keeps, found by making one for features of a usual size."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress

__all__ = ["SIZES", "Cost", "cost"]

_BATCH: Final = 8
_CLASSES: Final = 10
_SHAPES: Final = (((16, 8, 8), (32, 8, 8)), ((32, 4, 4), (64, 4, 4)))
SIZES: Final = "16 → 32 channels of 8×8, and of a second tap 32 → 64 of 4×4; 10 classes"
"""The features of student and teacher that figures of cost are for."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a term takes beside its arithmetic.

    Attributes:
        learns: parameters of its own; ``None`` where it has some and how many was not found.
        keeps: bytes that it remembers from batch to batch; ``None`` likewise.
    """

    learns: int | None
    keeps: int | None


def cost(term: type[Any], taps: Sequence[str]) -> Cost:
    """Make one, let it be shaped by one exchange, and count.

    A term without a state learns and keeps nothing. One that cannot be made like this, as it needs settings or features
    of a special kind, has the cost ``None``.

    >>> from limbeck.losses import Hint, SoftTarget
    >>> cost(SoftTarget, ()), cost(Hint, ("at",))
    (Cost(learns=0, keeps=0), Cost(learns=544, keeps=0))
    """
    if not issubclass(term, nn.Module):
        return Cost(learns=0, keeps=0)
    given = [name for name in taps if not name.startswith("[")]
    for named in (given, [name.strip("[]") for name in taps]):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made: Any = term(**_settings(term, named))
                if hasattr(made, "prepare"):
                    made.prepare(_exchange())
        except Exception:  # noqa: S112  # whatever a term says of settings and features that are not its own
            continue
        return Cost(learns=sum(parameter.numel() for parameter in made.parameters()), keeps=_kept(made))
    return Cost(learns=None, keeps=None)


def _kept(made: nn.Module) -> int:
    """Bytes of its buffers, but for the running statistics of BatchNorm, which belong to what it learns."""
    norms = nn.modules.batchnorm._NormBase
    return sum(
        tensor.nbytes
        for module in made.modules()
        if not isinstance(module, norms)
        for tensor in module.buffers(recurse=False)
    )


def _settings(term: type[Any], taps: Sequence[str]) -> dict[str, Any]:
    """What it has to be given: names of taps, and what a recipe would fill in."""
    known = {"classes": _CLASSES, "seed": 0}
    settings: dict[str, Any] = {}
    tap = iter(("first", "second", "first", "second"))
    for name, parameter in inspect.signature(term).parameters.items():
        if name in taps:
            several = any(word in str(parameter.annotation) for word in ("Sequence", "tuple", "list"))
            settings[name] = ("first", "second") if several else next(tap)
        elif name in known:
            settings[name] = known[name]
    return settings


def _exchange() -> Exchange:
    draw = torch.Generator().manual_seed(0)

    def outputs(which: int) -> Outputs:
        maps = [torch.randn(_BATCH, *pair[which], generator=draw) for pair in _SHAPES]
        taps: dict[str, Tensor] = dict(zip(("first", "second"), maps, strict=True))
        return Outputs(logits=torch.randn(_BATCH, _CLASSES, generator=draw), taps=taps)

    student, teacher = outputs(0), outputs(1)
    said: dict[str, Any] = {
        "student": student, "teachers": {"teacher": teacher}, "teacher": teacher,
        "target": torch.arange(_BATCH) % _CLASSES, "progress": Progress(step=1, steps=4), "index": torch.arange(_BATCH),
    }  # fmt: skip
    return Exchange(**{field.name: said[field.name] for field in dataclasses.fields(Exchange) if field.name in said})
