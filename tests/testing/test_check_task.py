"""check_task and check_data_source pass what limbeck has, and name the mistake of what breaks the contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Panel, Scores, reduce_statistics
from limbeck.data import Digits, Split, from_tensors
from limbeck.data.image_store import DatasetAdapter, InMemory
from limbeck.data.mask_store import MasksInMemory
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.models import conv_ctc, small_cnn, text_encoder, unet
from limbeck.tasks import Classification, Segmentation, SpeechCTC, TextClassification
from limbeck.testing import DATA_CHECKS, TASK_CHECKS, check_data_source, check_task

GENERATOR = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(7, 15, (40,), generator=GENERATOR).tolist()
LABELS = torch.arange(40) % 3


def sequences(fields, **options):
    split = Split.from_sequences(SequenceStore(fields, **options), LABELS)
    return make_splits("sequences", "abc", split, seed=0, validation=0.3, test=0.2)


def classification():
    data = from_tensors(torch.rand(40, 1, 8, 8, generator=GENERATOR), LABELS)
    networks = small_cnn(width=2, classes=3), small_cnn(width=4, classes=3)
    return Classification(3), data, *networks, lambda batch: 9 * F.one_hot(batch["target"].clamp(min=0), 3).float()


def segmentation():
    images = InMemory(torch.rand(40, 3, 8, 12, generator=GENERATOR))
    masks = MasksInMemory(torch.randint(0, 3, (40, 8, 12), generator=GENERATOR))
    data = make_splits("masks", "abc", Split.from_masks(images, masks), seed=0, validation=0.3, test=0.2)
    networks = unet(width=2, depth=1, classes=3), unet(width=4, depth=2, classes=3)

    def oracle(batch):
        return 9 * F.one_hot(batch["target"].clamp(min=0), 3).float().movedim(3, 1)

    return Segmentation(3, stride=2), data, *networks, oracle


def speech():
    frames = [torch.randn(length, 4, generator=GENERATOR) for length in LENGTHS]
    data = sequences({"input": frames, "target": [torch.tensor([1, 2])] * 40})
    networks = conv_ctc(width=4, depth=1, classes=3, mels=4, stride=2), conv_ctc(width=8, depth=1, classes=3, mels=4)

    def oracle(batch):
        tokens = torch.tensor([1, 0, 2] + [0] * batch["input"].shape[1])
        num_samples, num_frames = len(batch["input"]), -(-batch["input"].shape[1] // 2)
        return 9 * F.one_hot(tokens[None, :num_frames], 3).float().repeat(num_samples, 1, 1)

    return SpeechCTC(3, frame_stride=3), data, *networks, oracle


def text():
    tokens = [torch.randint(1, 20, (length,), generator=GENERATOR) for length in LENGTHS]
    data = sequences({"input_ids": tokens}, masks={"input_ids": "attention_mask"})
    networks = [text_encoder(width=w, depth=1, num_heads=2, classes=3, vocab_size=20) for w in (4, 8)]
    return TextClassification(3), data, *networks, lambda batch: 9 * F.one_hot(batch["target"].clamp(min=0), 3).float()


@pytest.mark.parametrize("make", [classification, segmentation, speech, text], ids=lambda make: make.__name__)
def test_each_task_of_limbeck_passes(make):
    task, data, network, teacher, oracle = make()
    check_task(task, data, network, teacher=teacher, oracle=oracle)


RMSE = MetricSpec(name="rmse", label="RMSE", unit="", higher_is_better=False)


class SquaredError:
    supervised, needs_target, needs_teacher = True, True, False

    def __call__(self, context: LossContext) -> torch.Tensor:
        differences = context.student.logits - context.target
        return differences[~differences.isnan()].square().sum() / max(1, int((~differences.isnan()).sum()))


class AllRows(SquaredError):
    def __call__(self, context: LossContext) -> torch.Tensor:
        return (context.student.logits - context.target.nan_to_num()).square().mean()


class MAE:
    def __init__(self):
        self.errors = []

    def update(self, errors):
        self.errors.append(errors)

    def compute(self):
        return {"mae": float(torch.cat(self.errors).abs().mean())}


@dataclass(frozen=True)
class Regression:
    """A correct task, of which each broken one changes a method."""

    primary_metric: ClassVar = RMSE
    monitored_metrics: ClassVar = (RMSE,)
    metric_specs: ClassVar = (RMSE, MetricSpec(name="mae", label="MAE", unit="", higher_is_better=False))
    supervised_loss: ClassVar = f"{__name__}:SquaredError"
    input_axes: ClassVar = {"input": {0: "batch"}}
    output_axes: ClassVar = {"prediction": {0: "batch"}}

    def outputs(self, network, batch):
        return Outputs(logits=network(batch["input"]))

    def target(self, batch):
        return batch["target"]

    def monitor(self, network, batch):
        return self.score(network, batch).statistics

    def score(self, network, batch):
        predicted = network(batch["input"])
        errors = (predicted - batch["target"]).double()
        return Scores(errors.square(), predicted[:, 0].tolist(), (errors[~errors.isnan()],))

    def metric_value(self, statistics, weights=None, *, metric=None):
        pairs = torch.cat([statistics, torch.ones_like(statistics)], dim=1)
        return reduce_statistics(pairs, weights, lambda sums: (sums[..., 0] / sums[..., 1]).sqrt())

    def metrics(self):
        return MAE()

    def model_inputs(self, batch):
        return ModelInputs((batch["input"],))

    def encode_outputs(self, outputs, batch):
        return {"logits": outputs.logits}

    def decode_outputs(self, stored, batch):
        return Outputs(logits=stored["logits"])

    def examples(self, batch, scores, facts):
        return [
            Example(
                sample_id=sample_id, input=Panel("x"), target=Panel("y"),
                predictions={name: Panel(f"{score.predictions[i]:.1f}") for name, score in scores.items()},
            )
            for i, sample_id in enumerate(batch["sample_id"].tolist())
        ]  # fmt: skip

    def deployment_model(self, network, data):
        return Normalized(network, data.normalization)


class Normalized(nn.Module):
    def __init__(self, network, normalization):
        super().__init__()
        self.network, self.normalization = network, normalization

    def forward(self, inputs):
        return self.network(self.normalization.apply(inputs))


class MeanOfBatches(MAE):
    def compute(self):
        return {"mae": float(torch.stack([errors.abs().mean() for errors in self.errors]).mean())}


class WithoutExamples(Regression):
    def examples(self, batch, scores, facts):
        return []


def of_batch(self, network, batch):
    scores = Regression.score(self, network, batch)
    return scores._replace(statistics=scores.statistics - scores.statistics.mean())


def zero_for_missing(self, network, batch):
    scores = Regression.score(self, network, batch)
    return scores._replace(statistics=scores.statistics.nan_to_num())


def count_rows(self, statistics, weights=None, *, metric=None):
    weights = torch.ones(1, len(statistics)).double() if weights is None else weights.double()
    return (weights @ statistics[:, 0] / len(statistics)).sqrt().squeeze()


def without_weights(self, statistics, weights=None, *, metric=None):
    return statistics.mean().sqrt()


def labeled_only(self, outputs, batch):
    return {"logits": outputs.logits * (~batch["target"].isnan())}


def two_rows(self, network, batch):
    return Outputs(logits=network(batch["input"]).repeat(2, 1))


BROKEN = {
    "attributes": [
        ({"metric_specs": Regression.metric_specs[1:]}, "the primary metric rmse must be one of metric_specs, got mae"),
        ({"monitored_metrics": ()}, "monitored_metrics must have a metric, which selects the best epoch, got none"),
        ({"supervised_loss": "KDLoss"}, "supervised_loss must have `supervised = True`, got KDLoss"),
        ({"supervised_loss": "MSE"}, "Broken.supervised_loss: no loss is named 'MSE'"),
        ({"__repr__": object.__repr__}, "repr must show the settings, since caches depend on it"),
        ({"input_axes": {"input": {}}}, "axis 0 of 'input' in input_axes must have a name"),
        ({"examples": None}, "needs a deployable task, and Broken has no examples"),
        ({"score": None}, "check_task needs a task with metrics, and Broken has no score"),
    ],
    "rows": [
        ({"outputs": two_rows}, "row_to_sample must say which sample each row belongs to .* for 4 rows of 2 samples"),
        ({"target": lambda self, batch: batch["target"].repeat(3, 1)}, "target must have an entry for each of the 2 r"),
        ({"outputs": lambda self, network, batch: network(batch["input"])}, "outputs must return an Outputs, got a T"),
    ],
    "statistics": [
        ({"monitor": lambda self, *args: Regression.monitor(self, *args).float()}, "monitor must be float64, got tor"),
        ({"monitor": lambda self, *args: Regression.monitor(self, *args)[:, 0]}, r"must be \[8, k\].* got \[8\]"),
    ],
    "independent of batches": [({"score": of_batch}, "must not depend on the other samples of a batch, and they do")],
    "weights": [
        ({"metric_value": count_rows}, "rmse must be the same for a weight of 2 as for the sample twice, got"),
        ({"metric_value": without_weights}, r"metric_value of rmse must be \[3\] for weights \[3, 8\], got \[\]"),
    ],
    "metrics": [
        ({"metrics": lambda self: MeanOfBatches()}, "must compute mae of the samples, however they are batched, got"),
        ({"monitor": lambda self, *args: 4 * Regression.monitor(self, *args)}, "the same from monitor as from score"),
    ],
    "missing targets": [
        (
            {"score": zero_for_missing},
            "statistics of rmse must be NaN for a sample without a target",
        ),
        ({"supervised_loss": f"{__name__}:AllRows"}, "supervised_loss must be the mean over the samples with a targ"),
    ],
    "supervised loss": [
        (
            {"outputs": lambda self, *args: Regression.outputs(self, *args).detach()},
            "it raises RuntimeError: element 0 of tensors does not require grad",
        )
    ],
    "oracle": [
        (
            {
                name: tuple(replace(spec, higher_is_better=True) for spec in getattr(Regression, name))
                for name in ("monitored_metrics", "metric_specs")
            }
            | {"primary_metric": replace(RMSE, higher_is_better=True)},
            "rmse of the oracle must be better than that of the network, got 0 and .* with higher_is_better=True",
        )
    ],
    "model inputs": [
        ({"model_inputs": lambda self, batch: ModelInputs((2 * batch["input"],))}, "must be how outputs calls the net"),
        ({"input_axes": {"input": {0: "batch"}, "mask": {0: "batch"}}}, "name each of the 1 inputs, got input, mask"),
    ],
    "cache": [
        ({"encode_outputs": labeled_only}, "encode_outputs must not depend on targets, and it does"),
        (
            {"decode_outputs": lambda self, stored, batch: Outputs(logits=2 * stored["logits"])},
            "decode_outputs must give the outputs of a batch of 8 again, and its logits differ",
        ),
    ],
    "examples": [
        ({"examples": lambda self, *args: Regression.examples(self, *args)[1:]}, "one Example for each sample with"),
    ],
    "deployment model": [
        ({"deployment_model": lambda self, network, data: network}, "gives others: include the normalization of the d"),
    ],
}  # fmt: skip


def values_data():
    inputs = 3 + torch.randn(40, 4, generator=GENERATOR)
    split = Split.from_values(InMemory(inputs), inputs.sum(dim=1, keepdim=True))
    return make_splits("values", (), split, seed=0, validation=0.3, test=0.2)


def check_regression(task):
    check_task(task, values_data(), nn.Linear(4, 1), oracle=lambda batch: batch["target"])


def test_a_correct_task_passes_every_check():
    assert {*BROKEN} == {*TASK_CHECKS}
    check_regression(Regression())


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [(name, *case) for name, cases in BROKEN.items() for case in cases],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_task_fails_in_one_sentence(name, change, reason):
    attributes = {key: value for key, value in vars(Regression).items() if key not in ("__dict__", "__weakref__")}
    attributes = {key: value for key, value in (attributes | change).items() if value is not None}
    broken = type("Broken", (), attributes)
    broken.__qualname__ = broken.__name__
    globals()["Broken"] = broken
    with pytest.raises(AssertionError, match=f"^Broken fails the check '{name}': .*{reason}") as error:
        check_regression(broken())
    assert "\n" not in str(error.value)


def test_checks_are_left_out_by_name():
    check_task(WithoutExamples(), values_data(), nn.Linear(4, 1), skip={"examples"})
    with pytest.raises(ValueError, match=r"no check is named \['example'\]; available"):
        check_task(WithoutExamples(), values_data(), nn.Linear(4, 1), skip={"example"})


@dataclass(frozen=True)
class Source:
    """A correct source, of which each broken one changes a part."""

    change: str = ""

    def load(self, *, seed=0):
        generator = torch.Generator().manual_seed(0)
        inputs, labels = torch.rand(60, 3, generator=generator), torch.arange(60) % 3
        if self.change == "global":
            torch.rand(1)
        if self.change == "unseeded":
            seed = torch.Generator().seed() % 1000
        everything = Split.from_images(InMemory(inputs), labels)
        train, validation = everything.subset(torch.arange(40)), everything.subset(torch.arange(40, 50))
        if self.change == "overlap":
            validation = everything.subset(torch.arange(30, 40))
        if self.change == "copies":
            validation = replace(train.subset(torch.arange(10)), sample_ids=torch.arange(100, 110))
        if self.change == "class":
            train = train.subset(train.target != 1)
        data = make_splits("source", "abc", train, seed=seed, validation=validation, test=0.2)
        if self.change == "unlabeled":
            data = replace(data, validation=replace(data.validation, target=torch.full((10,), -100)))
        return None if self.change == "none" else data


@dataclass(frozen=True)
class Promising(Source):
    provides: ClassVar = ("mels",)


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ("none", "load", "load must return a DataModule, got a NoneType"),
        ("global", "load", "load must not use the global generator of torch: make a torch.Generator of the seed"),
        ("unseeded", "seeds", "the same seed must give the same data and splits"),
        ("overlap", "disjoint splits", "a sample must be in one split, and sample .* is in training and validation"),
        ("copies", "disjoint splits", "samples of validation must not be those of training under another id"),
        ("class", "labels", "the training split must have a sample of each class, and 'b' has none"),
        ("unlabeled", "labels", "the validation split must have a sample with a target, got none"),
    ],
)
def test_a_broken_source_fails_in_one_sentence(change, name, reason):
    with pytest.raises(AssertionError, match=f"^Source fails the check '{name}': {reason}"):
        check_data_source(Source(change))


def test_random_items_of_validation_and_undeclared_facts_are_found():
    class Noise(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            return 2 * torch.rand(3), index % 3

    class Noisy(Source):
        def load(self, *, seed=0):
            data = super().load(seed=seed)
            noise = Split.from_images(DatasetAdapter(Noise()), torch.arange(30) % 3, first_id=100)
            return replace(data, validation=noise)

    with pytest.raises(AssertionError, match="'evaluation': samples of validation must be the same each time: move"):
        check_data_source(Noisy(), skip={"settings", "seeds"})
    with pytest.raises(
        AssertionError, match="'settings': provides names 'mels', and facts of the data have channels, class_names"
    ):
        check_data_source(Promising())


def test_sources_of_limbeck_and_their_copies_pass():
    assert list(DATA_CHECKS) == ["settings", "seeds", "disjoint splits", "evaluation", "labels"]
    assert len(check_data_source(Digits(num_labeled=50)).train) == 1078
    check_data_source(Source())
