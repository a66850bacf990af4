"""A user's loader as training batches by step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final

import torch

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.batch_checks import BatchChecks, check_batch
from limbeck.data.input_checks import read_item
from limbeck.utils.random_states import get_rng_states, set_rng_states

__all__ = ["LoaderAdapter", "checked_batches"]

_MAX_SEARCH_SECONDS: Final = 10.0
_GENERATOR_OWNERS: Final = ("", "sampler", "batch_sampler", "batch_sampler.sampler")


@final
class LoaderAdapter:
    """Batches of a user's loader, which is iterated once per epoch.

    The first batch may be read before the training: it is kept, and not read from the loader a second time. Checkpoints
    hold the random states at the start of the epoch (:meth:`state_dict`), so a resumed epoch has the order of the
    interrupted one, whether the loader draws it from its own ``torch.Generator`` or from the global one.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        try:
            self.steps_per_epoch = len(loader)  # type: ignore[arg-type]
        except TypeError:
            raise LimbeckError("a loader must have a length: use a DataLoader of a map-style data set") from None
        if not self.steps_per_epoch:
            raise LimbeckError("a loader must have at least 1 batch, got 0")
        self._loader, self._next_step, self._checks = loader, 0, BatchChecks(self.steps_per_epoch)
        self._batches: Iterator[Any] | None = None
        self._first_batch: Any = None
        self._epoch_states: dict[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None

    def batch(self, step: int) -> Any:
        if step == 0 and self._first_batch is not None:
            return self._first_batch
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._batches is None or step != self._next_step or position == 0:
            self._start_epoch(epoch, position)
        self._next_step = step + 1
        batch = self._next_batch(position)
        self._first_batch = batch if step == 0 else None
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Random states at the start of the epoch, and those of the loader's generators now."""
        return {"epoch": self._epoch_states, "generators": self._generator_states()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`: the next batch is that of the interrupted training, for the step that follows."""
        self._resumed, self._batches, self._first_batch = state, None, None

    def _start_epoch(self, epoch: int, position: int) -> None:
        """Iterate the loader anew and skip ``position`` batches."""
        resumed, self._resumed = self._resumed, None
        rng_states = get_rng_states()
        if resumed is not None and position and resumed["epoch"] is not None:
            set_rng_states(resumed["epoch"]["global"])
            self._set_generator_states(resumed["epoch"]["generators"])
        elif resumed is not None:
            self._set_generator_states(resumed["generators"])
        self._epoch_states = {"global": get_rng_states(), "generators": self._generator_states()}
        for sampler in (getattr(self._loader, name, None) for name in ("sampler", "batch_sampler")):
            if (set_epoch := getattr(sampler, "set_epoch", None)) is not None:
                set_epoch(epoch)  # without it, a DistributedSampler gives each epoch the same order
        self._batches = iter(self._loader)
        for _ in range(position):
            self._next_batch(position)
        if resumed is not None and position:
            set_rng_states(rng_states)
            self._set_generator_states(resumed["generators"])

    def _next_batch(self, position: int) -> Any:
        assert self._batches is not None
        try:
            batch = next(self._batches)
        except StopIteration:
            raise LimbeckError(
                f"a loader must return as many batches as its length ({self.steps_per_epoch}) each time, got only "
                f"{position}"
            ) from None
        except Exception as error:  # user code
            raise _unreadable(self._loader, position, error) from error
        self._checks.check(batch, position)
        return batch

    def _generators(self) -> Iterator[tuple[str, torch.Generator]]:
        """The generators of the loader and its samplers, each once."""
        seen: set[int] = set()
        for path in _GENERATOR_OWNERS:
            owner: Any = self._loader
            for name in path.split(".") if path else ():
                owner = getattr(owner, name, None)
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield path, generator

    def _generator_states(self) -> dict[str, torch.Tensor]:
        return {path: generator.get_state() for path, generator in self._generators()}

    def _set_generator_states(self, states: Mapping[str, torch.Tensor]) -> None:
        for path, generator in self._generators():
            if path in states:
                generator.set_state(states[path])


def checked_batches(loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """``batches`` of a user's ``loader``; what it raises, and inputs that are not finite, become one sentence.

    Raises:
        LimbeckError: names the batch, and the sample where it is known.
    """
    position = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # user code
            raise _unreadable(loader, position, error) from error
        check_batch(batch, f"batch {position} of the validation loader")
        yield batch
        position += 1


def _unreadable(loader: Any, position: int, error: Exception) -> LimbeckError:
    """The error of a loader that raised: that of the first sample of its data set that cannot be read, else its own.

    Reading every sample of a large data set takes hours, so the search ends after 10 seconds.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        deadline = time.monotonic() + _MAX_SEARCH_SECONDS
        for index in range(len(dataset)):
            if time.monotonic() > deadline:
                break
            try:
                read_item(dataset, index)
            except LimbeckError as item_error:
                return item_error
    return LimbeckError(f"batch {position} of a loader could not be read ({format_root_cause(error)}): correct it")
