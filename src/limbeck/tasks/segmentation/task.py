"""Semantic segmentation: a row is a pixel of a labeled class, the target is a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores, reduce_statistics
from limbeck.data.normalization import NormalizedModel
from limbeck.evaluation.class_metrics import NLL
from limbeck.losses._ops import IGNORE_INDEX
from limbeck.losses.temperature import Range
from limbeck.tasks.segmentation.inference import averaged_logits, resize
from limbeck.tasks.segmentation.metrics import (
    METRICS,
    MIOU,
    SegmentationMetrics,
    confusion_matrices,
    intersections_and_unions,
    mean_iou,
)
from limbeck.tasks.segmentation.report import segmentation_examples
from limbeck.utils.batch_fields import get_input, get_sample_ids, get_target
from limbeck.utils.logits import find_logits

__all__ = ["Segmentation"]

_PIXELS: Final = Range(default=1.0, low=1.0, high=4.0)
"""Lower than for images: Liu et al. (CVPR 2019) and Shu et al. (ICCV 2021) compare pixels at 1."""
_MAX_SCALE: Final = 8.0


@final
@dataclass(frozen=True, slots=True)
class Segmentation:
    """One class for each pixel.

    A batch is ``(input, target)``, or a mapping with the image under ``input`` or ``image`` and the mask under
    ``target``, ``label`` or ``mask``. Images are ``[batch, channels, height, width]``, masks ``[batch, height, width]``
    with class indices. The network returns logits ``[batch, classes, rows, columns]`` of any size, as a tensor, in
    ``.logits``, ``["logits"]`` or ``["out"]``; they are resized to the image (bilinear, as in torchvision), so networks
    of unlike size can be compared.

    Losses compare the pixels of a grid of every ``stride``-th row and column, without those of no class; of an image
    whose mask has no class at all, every pixel. Metrics use all pixels.

    ``window``, ``scales`` and ``flip`` change how networks are validated and tested: their logits for an image are
    averaged over windows, and their probabilities over scales and flips. Losses and caches use one pass over the whole
    image, and so does a deployed network.

    Args:
        classes: number of classes.
        stride: distance of the pixels that losses compare.
        ignore_index: class index of pixels without a class, as in torch; those below 0 have none either.
        window: height and width in pixels of sliding windows; ``None``: the whole image.
        overlap: smallest share of a window that the next one covers as well, from 0 to below 1.
        scales: factors that the image is resized by, such as ``[0.75, 1, 1.25]``.
        flip: average with the image mirrored left to right.
    """

    classes: int
    stride: int = 1
    ignore_index: int = 255
    # Not in the repr, by which caches of training outputs are found.
    window: tuple[int, int] | None = field(default=None, repr=False)
    overlap: float = field(default=0.5, repr=False)
    scales: tuple[float, ...] = field(default=(1.0,), repr=False)
    flip: bool = field(default=False, repr=False)
    temperatures: ClassVar[Range] = _PIXELS
    primary_metric: ClassVar[MetricSpec] = MIOU
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (MIOU, NLL)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "CrossEntropyLoss"
    pipeline_tag: ClassVar[str] = "image-segmentation"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"input": {0: "batch"}}
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch"}}

    def __post_init__(self) -> None:
        if self.classes < 2 or self.stride < 1 or 0 <= self.ignore_index < self.classes:
            raise LimbeckError(
                f"classes must be at least 2, stride at least 1 and ignore_index none of the classes, got {self}"
            )
        if self.window is not None and (len(self.window) != 2 or min(self.window) < 1):
            raise LimbeckError(f"window must be height and width of at least 1 pixel, got {self.window}: change it")
        if not 0 <= self.overlap < 1:
            raise LimbeckError(f"overlap must be from 0 to below 1, got {self.overlap}: give the share of a window")
        if not self.scales or not all(0 < scale <= _MAX_SCALE for scale in self.scales):
            raise LimbeckError(f"scales must be numbers above 0 and up to {_MAX_SCALE}, got {self.scales}: change them")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """One row per pixel of the grid; ``spatial_logits`` is the whole grid."""
        return self._rows(self._grid(self._full_logits(network, batch)), batch)

    def target(self, batch: Any) -> Tensor | None:
        """Class indices of the rows, or ``None`` for a batch without masks."""
        mask = self._mask(batch)
        return None if mask is None else self._grid(mask)[self._grid(_is_row(mask))]

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """``mask``, ``[batch, height, width]`` class indices on the grid of ``spatial_logits``, −100 for no class.

        Empty for a batch without masks.
        """
        mask = self._mask(batch)
        return {} if mask is None else {"mask": self._grid(mask)}

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 2·classes + 2]``: intersections and unions by class, sum of the losses, number of pixels."""
        logits = self._averaged_logits(network, batch)
        mask = self._full_mask(batch, logits)
        confusion = confusion_matrices(logits.argmax(dim=1), mask, classes=self.classes)
        losses = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE_INDEX, reduction="none")
        sums = torch.stack([losses.flatten(1).double().sum(dim=1), confusion.sum(dim=(1, 2)).double()], dim=1)
        return _mask_unlabeled(torch.cat([intersections_and_unions(confusion), sums], dim=1).cpu(), confusion)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Predicted masks; the statistics are the intersection and the union of each class."""
        logits = self._averaged_logits(network, batch)
        if not bool(logits.isfinite().all()):
            raise LimbeckError("logits must be finite, got NaN or infinity: check the weights and the images")
        predicted = logits.argmax(dim=1)
        confusion = confusion_matrices(predicted, self._full_mask(batch, logits), classes=self.classes).cpu()
        masks = predicted.to(torch.uint8 if self.classes <= 256 else torch.int32).cpu()
        is_labeled = confusion.sum(dim=(1, 2)) > 0
        statistics = _mask_unlabeled(intersections_and_unions(confusion), confusion)
        return Scores(statistics, list(masks), (confusion[is_labeled],))

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """Mean IoU over the classes with a union in these samples, or from :meth:`monitor` the mean loss of a pixel."""
        if metric == NLL:
            return reduce_statistics(statistics[:, -2:], weights, lambda sums: sums[..., 0] / sums[..., 1])
        return reduce_statistics(statistics[:, : 2 * self.classes], weights, mean_iou)

    def metrics(self) -> SegmentationMetrics:
        """Mean IoU, pixel accuracy, mean class accuracy, and the IoU of each class."""
        return SegmentationMetrics(self.classes, inference=self._inference())

    def model_inputs(self, batch: Any) -> ModelInputs:
        """The image."""
        return ModelInputs((get_input(batch),))

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits of the whole grid."""
        if outputs.spatial_logits is None:
            raise LimbeckError("outputs must have spatial_logits to be cached; give the teacher the task Segmentation")
        return {"spatial_logits": outputs.spatial_logits}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, with the rows of this batch's masks."""
        return self._rows(stored["spatial_logits"], batch)

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Images with the mask of the target and of each prediction."""
        pixels, mask = get_input(batch), self._mask(batch)
        sample_ids = get_sample_ids(batch, len(pixels))
        return segmentation_examples(pixels, mask, sample_ids, scores, classes=self.classes)

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data: takes pixels in 0..1, returns logits of the image's size."""
        return ResizedLogits(NormalizedModel(network, data.normalization, num_dims=3))

    def _full_logits(self, network: nn.Module, batch: Any) -> Tensor:
        """Logits of the size of the image, from one pass over it."""
        return self._run(network, get_input(batch))

    def _averaged_logits(self, network: nn.Module, batch: Any) -> Tensor:
        """Logits of the size of the image, as they are validated and tested."""
        if getattr(network, "is_deployed", False) or not self._inference():
            return self._full_logits(network, batch)
        return averaged_logits(
            lambda image: self._run(network, image), get_input(batch), window=self.window, overlap=self.overlap,
            scales=self.scales, flip=self.flip,
        )  # fmt: skip

    def _inference(self) -> dict[str, Any]:
        """What differs from one pass over the whole image."""
        window = {} if self.window is None else {"window": list(self.window), "overlap": self.overlap}
        scales = {} if self.scales == (1.0,) else {"scales": list(self.scales)}
        return {**window, **scales, **({"flip": True} if self.flip else {})}

    def _run(self, network: nn.Module, image: Tensor) -> Tensor:
        output = network(image)
        logits = find_logits(output)
        if logits is None or logits.ndim != 4 or logits.shape[:2] != (len(image), self.classes):
            shape = type(output).__name__ if logits is None else list(logits.shape)
            raise LimbeckError(
                f"logits of {type(network).__name__} must be [{len(image)}, {self.classes}, rows, columns], got {shape}"
            )
        return resize(logits, image.shape[-2:])

    def _rows(self, grid_logits: Tensor, batch: Any) -> Outputs:
        mask, size = self._mask(batch), (len(grid_logits), *grid_logits.shape[2:])
        is_row = torch.ones(size, dtype=torch.bool) if mask is None else self._grid(_is_row(mask))
        if is_row.shape != size:
            raise LimbeckError(
                f"the grid of outputs must be {list(is_row.shape)} for this batch and stride {self.stride}, got "
                f"{list(size)}; fill the cache again with this image size and stride"
            )
        pixels = is_row.to(grid_logits.device).flatten().nonzero()[:, 0]
        logits = grid_logits.movedim(1, -1).flatten(0, 2).index_select(0, pixels)
        row_to_sample = pixels // (grid_logits.shape[2] * grid_logits.shape[3])
        return Outputs(logits=logits, spatial_logits=grid_logits, row_to_sample=row_to_sample)

    def _grid(self, image: Tensor) -> Tensor:
        return image[..., :: self.stride, :: self.stride]

    def _mask(self, batch: Any) -> Tensor | None:
        """``[batch, height, width]`` class indices, −100 for pixels without a class; ``None`` without masks."""
        mask: Tensor | None = get_target(batch, more_keys=("mask", "masks"))
        if mask is None:
            return None
        image = get_input(batch)
        shape = (len(image), *image.shape[-2:])
        if mask.shape != shape or mask.is_floating_point():
            raise LimbeckError(
                f"masks must be class indices of the image's size, {list(shape)}, got {mask.dtype} {list(mask.shape)}"
            )
        mask = mask.long()
        mask = mask.masked_fill((mask == self.ignore_index) | (mask < 0), IGNORE_INDEX)
        # Only on the CPU, since reading values synchronizes a device.
        if mask.is_cpu and mask.numel() and int(mask.max()) >= self.classes:
            raise LimbeckError(
                f"masks must have classes in 0..{self.classes - 1}, and {self.ignore_index} for no class, got "
                f"{int(mask.max())}; set the task's classes or ignore_index"
            )
        return mask

    def _full_mask(self, batch: Any, logits: Tensor) -> Tensor:
        mask = self._mask(batch)
        if mask is None:
            return logits.new_full((len(logits), *logits.shape[2:]), IGNORE_INDEX, dtype=torch.long)
        return mask.to(logits.device)


@final
class ResizedLogits(nn.Module):
    """A segmentation network whose logits are a tensor of the size of its input.

    Args:
        network: takes ``[batch, channels, height, width]`` and returns logits of any size.
    """

    is_deployed: ClassVar = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = find_logits(self.network(image))
        if logits is None:
            raise LimbeckError(f"{type(self.network).__name__} must return logits")
        return resize(logits, image.shape[-2:])


def _is_row(mask: Tensor) -> Tensor:
    """The pixels that losses compare: those of a class, and all of an image without any class."""
    has_class = mask >= 0
    return has_class | ~has_class.flatten(1).any(dim=1)[:, None, None]


def _mask_unlabeled(statistics: Tensor, confusion: Tensor) -> Tensor:
    return statistics.masked_fill((confusion.cpu().sum(dim=(1, 2)) == 0)[:, None], torch.nan)
