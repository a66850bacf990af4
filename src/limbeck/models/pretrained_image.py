"""Image classifiers of Hugging Face transformers: ViT, Swin, ConvNeXT, ResNet, … (https://huggingface.co/docs/transformers)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause

__all__ = ["PretrainedImage", "is_image_config"]


def is_image_config(config: Any) -> bool:
    """Whether transformers has an image classifier for ``config``."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Without the table that transformers logs of weights that are new."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@final
class PretrainedImage(nn.Module):
    """See :func:`limbeck.models.transformers`. Maps images ``[batch, channels, height, width]`` to logits.

    Feature layers: those of ``model``, with its names in transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path, config: Any, *, pretrained: bool) -> PretrainedImage:
        """The classifier of ``config``, where ``pretrained`` with the weights in ``folder``.

        Where these are for another number of classes, its head is a new one.
        """
        from transformers import AutoModelForImageClassification

        if not pretrained:
            return cls(AutoModelForImageClassification.from_config(config))
        with _without_load_report():  # a classifier of other classes is replaced on purpose
            model = AutoModelForImageClassification.from_pretrained(
                folder, config=config, local_files_only=True, dtype=torch.float32, trust_remote_code=False,
                use_safetensors=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
        return cls(model)

    def load_folder(self, folder: Path) -> None:
        """Load the weights that ``save_pretrained`` wrote, also under the names of another version of transformers.

        Raises:
            LimbeckError: they do not fit.
        """
        from transformers import AutoModelForImageClassification

        try:
            model, report = AutoModelForImageClassification.from_pretrained(
                folder, config=self.model.config, local_files_only=True, dtype=torch.float32, trust_remote_code=False,
                use_safetensors=True, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # transformers raises errors of any type
            raise LimbeckError(f"{folder} does not fit the model: {format_root_cause(error)}") from error
        if missing := sorted(report["missing_keys"]):
            raise LimbeckError(f"{folder} does not fit the model, for it holds nothing for {missing[0]}")
        self.model.load_state_dict(model.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits
