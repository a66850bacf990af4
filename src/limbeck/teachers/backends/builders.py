"""Each engine, made for one network and one kind of batch, or a sentence on why it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.features import Taps, bare, parse
from limbeck.models.onnx_graph import onnx_bytes
from limbeck.teachers.backends.call_recorder import Call, Unfit
from limbeck.teachers.backends.fold_batchnorm import Folded, fold
from limbeck.teachers.backends.runtime_session import Runtime, Session, missing

__all__ = ["CANDIDATES", "Ready", "Situation"]


class Ready(NamedTuple):
    """An engine that answers: what the task calls, the taps on it, and a note where there is something to say."""

    network: nn.Module
    taps: Taps
    note: str = ""


@final
@dataclass(frozen=True)
class Situation:
    """What an engine has to fit.

    Attributes:
        network: the teacher, in eval mode.
        places: its taps, by name.
        calls: how the task called it on a real batch.
    """

    network: nn.Module
    places: Mapping[str, str]
    calls: Sequence[Call]

    def without_taps(self) -> Taps:
        """No taps, or ``Unfit`` where features are asked for."""
        if self.places:
            raise Unfit(f"features are tapped ({', '.join(self.places)}), and it gives the answer only")
        return Taps(self.network, {})

    @cached_property
    def input(self) -> Tensor:
        """The one tensor that the network is called with, or ``Unfit``."""
        if len(self.calls) != 1 or len(self.calls[0].args) != 1 or self.calls[0].kwargs:
            raise Unfit("the task calls the network otherwise than once with one tensor")
        given, said = self.calls[0].args[0], self.calls[0].said
        if not isinstance(given, Tensor) or not isinstance(said, Tensor):
            wrong = type(said if isinstance(given, Tensor) else given).__name__
            raise Unfit(f"the network takes or gives a {wrong}, and not one tensor")
        tensors = [given, *self.network.parameters(), *self.network.buffers()]
        if not all(tensor.is_cpu for tensor in tensors):
            raise Unfit("it runs on the CPU, and the teacher does not")
        wide = {str(t.dtype) for t in (said, *tensors) if t.is_floating_point() and t.dtype != torch.float32}
        if wide or torch.is_autocast_enabled("cpu"):
            raise Unfit(f"it computes in float32, and the teacher in {', '.join(sorted(wide)) or 'mixed precision'}")
        return given

    @cached_property
    def graph(self) -> bytes:
        """The network as an ONNX file, made once for all runtimes."""
        try:
            return onnx_bytes(bare(self.network), self.input, of=type(bare(self.network)).__name__)
        except Unfit:
            raise
        except LimbeckError as error:
            raise Unfit(str(error)) from error


def _eager(at: Situation) -> Ready:
    return Ready(at.network, Taps(at.network, at.places))


def _folded(at: Situation) -> Ready:
    # A tap between the two, at the layer's output or the norm's input, would hear something else than before.
    keep = {place.path for place in map(parse, at.places.values())}
    copied, note = fold(bare(at.network), keep=keep)
    plain = not at.places and len(at.calls) == 1 and isinstance(at.calls[0].said, Tensor)
    return Ready(Folded(copied, inference=plain), Taps(copied, at.places), note)


def _compiled(at: Situation) -> Ready:
    taps = at.without_taps()
    return Ready(torch.compile(at.network), taps)  # type: ignore[arg-type]


def _in(runtime: Runtime) -> Callable[[Situation], Ready]:
    def made(at: Situation) -> Ready:
        taps = at.without_taps()
        if (absent := missing(runtime)) is not None:
            raise Unfit(absent.partition(": ")[0] + f" ({absent.partition(': ')[2]})")
        example = at.input
        session = Session(at.graph, runtime=runtime, of=type(bare(at.network)).__name__)
        return Ready(_Exported(at.network, session, example), taps)

    return made


CANDIDATES: Mapping[str, Callable[[Situation], Ready]] = {
    "eager": _eager,
    "folded": _folded,
    "compile": _compiled,
    "onnxruntime": _in("onnxruntime"),
    "openvino": _in("openvino"),
}


@final
class _Exported(nn.Module):
    """Asks a runtime, and torch itself where an input is of another kind than those the graph was made for."""

    def __init__(self, network: nn.Module, session: Session, example: Tensor) -> None:
        super().__init__()
        self.network, self.session = network, session
        self.shape, self.dtype = example.shape[1:], example.dtype
        self.warned = False

    def forward(self, input: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        if input.shape[1:] == self.shape and input.dtype == self.dtype and len(input):
            return torch.from_numpy(self.session(input.detach().numpy()))
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.session.runtime} was made ready for inputs {list(self.shape)}, so those of "
                f"{list(input.shape[1:])} are answered by torch, as slowly as eager",
                stacklevel=2,
            )
        said: Tensor = self.network(input)
        return said
