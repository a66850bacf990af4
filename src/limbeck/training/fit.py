"""The training loop on Lightning Fabric, which provides devices, precision and processes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.pair_batches import pair_batches
from limbeck.data.user_data import from_loaders
from limbeck.distiller.distiller import Distiller
from limbeck.training.callbacks import Callback, MetricsCSV, MetricsRow, TemperatureCSV, require_callbacks
from limbeck.training.checkpoint import catch_signals
from limbeck.training.config import TrainingConfig
from limbeck.training.convert_precision import preserve_dtypes
from limbeck.training.epoch_validation import require_validation
from limbeck.training.fabric import make_fabric
from limbeck.training.fsdp import is_fsdp
from limbeck.training.gradient_norms import GradientNorms
from limbeck.training.initialize import initialize_state
from limbeck.training.progress_bar import ProgressBar, training_title
from limbeck.training.train_state import TrainState
from limbeck.training.training_checks import require_labels
from limbeck.training.training_length import compute_training_length, training_seed
from limbeck.training.training_loop import TrainingLoop

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["FitResult", "TrainingData", "fit", "get_batches"]


class TrainingData(Protocol):
    """Batches for a training: a limbeck data module, or :func:`limbeck.data.from_loaders`."""

    def batches(self, *, batch_size: int, subset: Literal["all", "labeled"], rank: int, world_size: int) -> BatchStream:
        """Training batches by index; a parameter ``batch_tokens`` gets ``training.batch_tokens``."""
        ...

    def validation_batches(self) -> Iterator[Any]:
        """Batches of the validation split, each time from the first.

        With several processes, it takes ``rank`` and ``world_size`` too; a parameter ``batch_size`` gets
        ``training.validation_batch_size``.
        """
        ...


@final
@dataclass(slots=True)
class FitResult:
    """Result of :func:`fit`.

    Attributes:
        student: the trained network in eval mode, with the weights that ``keep_weights`` selects.
        history: one row per epoch, as in ``metrics.csv``.
        steps: number of optimizer steps.
        seconds: training time, including that before a resume.
        run_dir: folder of the run, or ``None``.
        warnings: of a loss that diverged.
    """

    student: nn.Module
    history: list[MetricsRow]
    steps: int
    seconds: float
    run_dir: Path | None = None
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        values = {name: value for name, value in (self.history[-1] if self.history else {}).items() if "val/" in name}
        metrics = "".join(f", {name}={value:.4g}" for name, value in values.items() if isinstance(value, float))
        folder = "" if self.run_dir is None else f", run_dir={str(self.run_dir)!r}"
        return (
            f"FitResult({type(self.student).__name__}, steps={self.steps}, seconds={self.seconds:.1f}{metrics}{folder})"
        )


def fit(
    distiller: Distiller,
    data: TrainingData | Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    stop_after_steps: int | None = None,
    steps_before: int = 0,
    total_steps: int = 0,
    training: TrainingConfig = TrainingConfig(),
    run_dir: str | Path | None = None,
    phase: str = "distilled",
    stage: str = "distill",
    subset: Literal["all", "labeled"] = "all",
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> FitResult:
    """Train the distiller's student.

    With several processes, each calls this with the same arguments and trains on its share of the batches; rank 0
    writes the files, and the trained student is the same in all.

    Args:
        distiller: student, teachers and objective.
        data: a limbeck data module, :func:`limbeck.data.from_loaders`, or a ``DataLoader`` or list of batches to train
            on, then without validation.
        epochs: passes over the training split; or give ``steps``.
        steps: number of optimizer steps.
        steps_per_epoch: steps between validations; ``None``: one pass over the training split.
        stop_after_steps: end after this many steps, with the schedules of the full length.
        steps_before: number of steps of the stages before this one.
        total_steps: number of steps of all stages, which ``schedules.across_stages`` reads; 0: unknown.
        training: optimizer, batch size and other settings.
        run_dir: folder for ``metrics.csv``, ``temperatures.csv`` (if a loss has a temperature) and ``checkpoint/``;
            ``None`` writes nothing.
        phase: name of the trained model in files and progress bars.
        stage: name of the stage in files.
        subset: train on ``all`` samples, or on the ``labeled`` ones only.
        seed: for dropout and new projections.
        resume: continue from the checkpoint in ``run_dir``, if there is one.
        fabric: devices, precision and processes; ``None``: :func:`~limbeck.training.make_fabric`.
        callbacks: called in rank 0; ``None``: a progress bar.

    Returns:
        The trained student with its history.

    Raises:
        LimbeckError: if the task refuses the data (``check_data``), a setting does not fit it, or a loss needs labels
            and there are none.
        TrainingDiverged: if a loss or the weights are not finite.
        TrainingInterrupted: on Ctrl-C, SIGTERM or SIGHUP, after a checkpoint is written.
    """
    for argument, name in (("phase", phase), ("stage", stage)):  # parts of file names
        if not isinstance(name, str) or not name or {"/", "\\", "\0"} & set(name) or name[0] == ".":
            raise LimbeckError(f"{argument} must be a name without slashes, got {name!r}")
    if not hasattr(seed, "__index__"):
        raise LimbeckError(f"seed must be an integer, got {seed!r}")
    fabric, data = fabric or make_fabric(), _as_training_data(data)
    if (check_data := getattr(distiller.task, "check_data", None)) is not None:
        check_data(distiller.student, data)
    require_labels(distiller, data)
    stream = get_batches(data, training, subset, rank=fabric.global_rank, world_size=fabric.world_size)
    length = compute_training_length(
        stream, epochs, steps, steps_per_epoch, training,
        stop_after_steps=stop_after_steps, steps_before=steps_before, total_steps=total_steps,
    )  # fmt: skip
    folder = None if run_dir is None else Path(run_dir)
    with preserve_dtypes(distiller, fabric):
        state = initialize_state(
            distiller, stream, length, training, fabric, phase=phase, stage=stage,
            seed=training_seed(seed, phase, stage),
        )  # fmt: skip
        state.path = None if folder is None else folder / "checkpoint" / f"{phase}.{stage}.pt"
        require_validation(data, state)
        if resume:
            state.resume()
        _train(state, data, _make_callbacks(callbacks, state, folder))
    # Rank 0 closes the teachers once all processes have ended: a cache then writes its index.
    if distiller.teachers and fabric.world_size > 1:
        fabric.barrier()
    for teacher in distiller.teachers.values() if fabric.global_rank == 0 else ():
        teacher.close()
    return FitResult(state.finalize(), state.history, state.step, state.seconds, folder, state.warnings)


def _as_training_data(data: Any) -> Any:
    """``data``, or the loader ``data`` without validation."""
    if hasattr(data, "batches"):
        return data
    if isinstance(data, Iterable) and hasattr(data, "__len__") and not hasattr(data, "__getitem__"):
        return from_loaders(data)  # a DataLoader of torch, or of Accelerate
    if isinstance(data, list | tuple) and data and not isinstance(data[0], Tensor):
        return from_loaders(data)
    raise LimbeckError(
        f"data must be a limbeck data module, a DataLoader or limbeck.data.from_loaders(train, validation), got "
        f"{type(data).__name__}; of a data set, limbeck.data.from_datasets makes a data module"
    )


def _train(state: TrainState, data: Any, all_callbacks: list[Callback]) -> None:
    """The loop over steps."""
    with catch_signals() as signals, _run_callbacks(all_callbacks, state):
        loop = TrainingLoop(state, data, all_callbacks, signals)
        while state.step < state.length.stop_after_steps and not state.should_stop:
            loop.train_step()
            loop.check_signals_and_clock()
            if loop.should_log:
                loop.log()
            if loop.is_epoch_end:
                loop.end_epoch()
            loop.save_if_due()


def get_batches(
    data: TrainingData | Any,
    training: TrainingConfig,
    subset: Literal["all", "labeled"] = "all",
    *,
    rank: int = 0,
    world_size: int = 1,
) -> BatchStream:
    """Training batches by index, for process ``rank`` of ``world_size``."""
    batch_size = training.batch_size if training.batch_pairing == "none" else training.batch_size // 2
    settings: dict[str, Any] = {"batch_size": batch_size, "subset": subset, "rank": rank, "world_size": world_size}
    if training.batch_tokens is not None:
        if "batch_tokens" not in inspect.signature(data.batches).parameters:
            raise LimbeckError(
                f"training.batch_tokens needs sequences of limbeck.data, got a {type(data).__name__}: cut batches by "
                "tokens in its own loader"
            )
        settings["batch_tokens"] = training.batch_tokens
    stream: BatchStream = data.batches(**settings)
    return stream if training.batch_pairing == "none" else pair_batches(stream, training.batch_pairing)


def _make_callbacks(callbacks: Sequence[Callback] | None, state: TrainState, folder: Path | None) -> list[Callback]:
    """Gradient norms in every process, since a gathered loss needs them all; the rest in rank 0."""
    all_callbacks: list[Callback] = []
    if not is_fsdp(state.fabric):
        steps_per_epoch, last_step = state.length.steps_per_epoch, state.length.stop_after_steps
        all_callbacks.append(GradientNorms(state.distiller, steps_per_epoch=steps_per_epoch, last_step=last_step))
    if state.fabric.global_rank == 0:
        all_callbacks += [ProgressBar()] if callbacks is None else require_callbacks(callbacks)
        if folder is not None:
            names = {"phase": state.phase, "stage": state.stage}
            all_callbacks.append(MetricsCSV(folder / "metrics.csv", **names))
            all_callbacks.append(TemperatureCSV(folder / "temperatures.csv", **names, step=state.step))
    for callback in all_callbacks:
        callback.monitored_metrics = state.monitored_metrics
    return all_callbacks


@contextmanager
def _run_callbacks(callbacks: list[Callback], state: TrainState) -> Iterator[None]:
    length = state.length
    title = training_title(state.phase, state.stage, has_more_stages=length.total_steps not in (0, length.steps))
    for callback in callbacks:
        callback.on_train_start(title=title, step=state.step, steps=length.stop_after_steps)
    try:
        yield
    finally:
        for callback in callbacks:
            callback.on_train_end()
