"""The contract of data sources as one call: ``check_data_source(MySource(root=...))``."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.data.groups import require_disjoint_groups
from limbeck.data.module import DataModule, iterate_batches
from limbeck.data.split import UNLABELED, Split
from limbeck.testing.task_case import same_leaves

__all__ = ["DATA_CHECKS", "check_data_source"]

_NUM_SAMPLES = 32
_MAX_COMPARED = 5000
_MAX_SHARED_FRACTION = 0.5


@final
@dataclass(frozen=True, slots=True)
class _Case:
    """A source, and its data of seed 0, loaded twice."""

    source: Any
    data: DataModule
    again: DataModule

    def splits(self) -> dict[str, Split]:
        """The splits by name; reading the test split here is not logged, since these data are not returned."""
        test = self.data.test.unlock("check_data_source")
        return {"training": self.data.train, "validation": self.data.validation, "test": test}


def check_data_source(source: Any, *, skip: Collection[str] = ()) -> DataModule:
    """Check the contract of data sources; an ``AssertionError`` names the check that fails.

    Args:
        source: has ``load(*, seed)``, which returns a :class:`~limbeck.data.DataModule`.
        skip: names in :data:`DATA_CHECKS` that do not apply.

    Raises:
        AssertionError: a check fails.
        ValueError: ``skip`` has a name that is not a check.

    Returns:
        The data of seed 0, for :func:`~limbeck.testing.check_task`.

    >>> from limbeck.data import Digits
    >>> len(check_data_source(Digits(num_labeled=50)).train)
    1078
    """
    if unknown := set(skip) - set(DATA_CHECKS):
        raise ValueError(f"no check is named {sorted(unknown)}; available: {sorted(DATA_CHECKS)}")
    name, check_name = type(source).__name__, "load"
    try:
        case = _Case(source, *(_load(source) for _ in range(2)))
        for check_name, check in DATA_CHECKS.items():
            if check_name not in skip:
                check(case)
    except Exception as error:
        reason = error if isinstance(error, AssertionError) else f"it raises {type(error).__name__}: {error}"
        raise AssertionError(f"{name} fails the check {check_name!r}: {reason}") from error
    return _load(source)


def _load(source: Any) -> DataModule:
    state = torch.random.get_rng_state()
    data = source.load(seed=0)
    assert isinstance(data, DataModule), f"load must return a DataModule, got a {type(data).__name__}"
    is_unchanged = torch.equal(torch.random.get_rng_state(), state)
    assert is_unchanged, "load must not use the global generator of torch: make a torch.Generator of the seed"
    return data


def _check_settings(case: _Case) -> None:
    text = repr(case.source)
    assert " at 0x" not in text, f"repr must show the settings, got {text}: make the source a frozen dataclass"
    copied = pickle.loads(pickle.dumps(case.source))  # noqa: S301  # pickled here
    assert repr(copied) == text, f"a pickled copy must have the same repr, got {copied!r}"
    known = {"classes", "class_names", "channels", *case.data.facts}
    for fact in getattr(case.source, "provides", ()):
        assert fact in known, f"provides names {fact!r}, and facts of the data have {', '.join(sorted(known))}"


def _check_seeds(case: _Case) -> None:
    assert case.data.fingerprint() == case.again.fingerprint(), "the same seed must give the same data and splits"
    first, second = (data.batches(batch_size=4).batch(3) for data in (case.data, case.again))
    assert same_leaves(first, second), "the same seed must give the same training batches"


def _check_disjoint(case: _Case) -> None:
    splits = case.splits()
    for name, split in splits.items():
        assert len(split), f"the {name} split must have samples, got none"
        ids = split.sample_ids
        assert len(set(ids.tolist())) == len(ids), (
            f"sample ids of the {name} split must be different, and some are equal"
        )
    for first, second in (("training", "validation"), ("training", "test"), ("validation", "test")):
        shared = set(splits[first].sample_ids.tolist()) & set(splits[second].sample_ids.tolist())
        assert not shared, f"a sample must be in one split, and sample {min(shared)} is in {first} and {second}"
    require_disjoint_groups(splits)
    training = {_hash(sample) for sample in _samples(splits["training"], _MAX_COMPARED)}
    for name in ("validation", "test"):
        samples = [_hash(sample) for sample in _samples(splits[name], _NUM_SAMPLES)]
        shared_fraction = sum(sample in training for sample in samples) / len(samples)
        assert shared_fraction <= _MAX_SHARED_FRACTION, (
            f"samples of {name} must not be those of training under another id, and {shared_fraction:.0%} of "
            f"{len(samples)} are"
        )


def _check_evaluation(case: _Case) -> None:
    for name, split in case.splits().items():
        if name == "training":
            continue
        assert split.images.is_deterministic(), (
            f"samples of {name} must be the same each time: move random transforms into the augmentation of training"
        )
        first, second = (
            next(iterate_batches(split, case.data.normalization, batch_size=_NUM_SAMPLES)) for _ in range(2)
        )
        assert same_leaves(first, second), f"samples of {name} must be the same each time, and they differ"


def _check_labels(case: _Case) -> None:
    classes = len(case.data.class_names)
    for name, split in case.splits().items():
        is_labeled = split.target != UNLABELED
        assert bool(is_labeled.any()), f"the {name} split must have a sample with a target, got none"
        if split.has_class_targets:
            labels = split.target[is_labeled]
            assert 0 <= int(labels.min()) <= int(labels.max()) < classes, (
                f"labels of {name} must be from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
            missing = sorted(set(range(classes)) - set(labels.tolist()))
            assert name == "test" or not missing, (
                f"the {name} split must have a sample of each class, and {case.data.class_names[missing[0]]!r} has none"
            )
        else:
            fields = split.subset(is_labeled).read_fields(torch.arange(min(_NUM_SAMPLES, int(is_labeled.sum()))))
            target = fields.get("target", fields.get("labels"))
            if isinstance(target, Tensor):  # a batch of a user's collate_fn may have any targets
                _check_other_target(target, name, classes)


def _check_other_target(target: Tensor, name: str, classes: int) -> None:
    """Values, masks and sequences of labeled samples."""
    if target.is_floating_point():
        assert bool(target.isfinite().all()), f"targets of {name} must be finite, and NaN only where there is no target"
    elif target.ndim > 1 and classes:
        num_classes = int(((target >= 0) & (target < classes)).sum())
        assert num_classes, f"targets of {name} must have class indices from 0 to {classes - 1}, got none"


DATA_CHECKS: Final[dict[str, Callable[[_Case], None]]] = {
    "settings": _check_settings,
    "seeds": _check_seeds,
    "disjoint splits": _check_disjoint,
    "evaluation": _check_evaluation,
    "labels": _check_labels,
}


def _samples(split: Split, count: int) -> Iterator[Tensor]:
    """The inputs of at most ``count`` evenly spaced samples, one by one, so that none is padded."""
    count = min(count, len(split))
    for index in (torch.arange(count) * len(split) // count).tolist():
        yield split.read(torch.tensor([index]))


def _hash(sample: Tensor) -> int:
    return hash((tuple(sample.shape), sample.contiguous().numpy().tobytes()))
