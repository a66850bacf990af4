"""Encoder–decoder networks of Hugging Face transformers from a local folder: NLLB, Marian, mBART, T5.

https://huggingface.co/docs/transformers/model_doc/auto#transformers.AutoModelForSeq2SeqLM
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.models.options import find_pairs
from limbeck.models.weights import load_weights
from limbeck.utils.model_folder import find_model_folder

__all__ = ["PretrainedSeq2Seq", "transformers_seq2seq"]


def transformers_seq2seq(
    path: str, *, vocab_size: int, pretrained: bool = True, weights: str | Path | None = None,
    pairs: Sequence[str] = (), class_names: Sequence[str] = (), **options: Any,
) -> PretrainedSeq2Seq:  # fmt: skip
    """An encoder–decoder network of transformers for the task ``Translation``.

    The data need its tokenizer: ``data.vocabulary`` is the same folder, and for NLLB ``data.language_tokens`` names the
    tokens of its languages.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors``, as ``save_pretrained`` writes it, or the name of
            an installed package that has one. Nothing is downloaded.
        vocab_size: a fact of the data, at most that of the network.
        pretrained: start from the weights in ``path``; otherwise random ones of its architecture.
        weights: a file or run folder with the whole network to load, as in :func:`~limbeck.models.load_weights`. A
            teacher of a recipe is not trained with ``weights``, which may be the folder of ``path``.
        pairs: as in :func:`~limbeck.models.seq2seq_transformer`.
        class_names: a fact of the data.
        options: settings of its configuration: ``encoder_layers``, ``dropout``, ...

    Raises:
        LimbeckError: transformers is not installed, there is no such network at ``path``, weights do not fit, or it has
            fewer tokens than the data.
    """
    indices = find_pairs(pairs, class_names)
    try:
        from transformers import AutoConfig, AutoModelForSeq2SeqLM
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise LimbeckError(f"{path} needs transformers, which is not installed: pip install 'limbeck[text]'") from error
    folder = find_model_folder(path)
    disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    with_weights = pretrained and weights is None
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        model: Any = _read_model(folder, config) if with_weights else AutoModelForSeq2SeqLM.from_config(config)
    except LimbeckError:
        raise
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"transformers could not load {folder}: {format_root_cause(error)}") from error
    if config.vocab_size < vocab_size:
        raise LimbeckError(
            f"{path} must have each of the {vocab_size:,} tokens of the data, got {config.vocab_size:,}: set "
            "data.vocabulary to its folder"
        )
    network = PretrainedSeq2Seq(model, pairs=indices)
    if weights is not None:
        load_weights(network, weights)
    return network


def _read_model(folder: Path, config: Any) -> Any:
    """The model with all of its weights from ``folder``; transformers would draw those that are missing at random."""
    from transformers import AutoModelForSeq2SeqLM

    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        folder, config=config, local_files_only=True, dtype=torch.float32, trust_remote_code=False,
        use_safetensors=True, output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise LimbeckError(
            f"the weights in {folder} must be those of a {type(model).__name__}, and {missing[0]} is missing: give "
            "another folder"
        )
    return model


@dataclass(frozen=True, slots=True)
class CacheState:
    """The encoded source and the keys and values of the target tokens so far, which :meth:`select` changes in place.

    Attributes:
        memory: ``[batch, source tokens, width]``.
        attention_mask: ``[batch, source tokens]``.
        cache: an ``EncoderDecoderCache`` of transformers.
    """

    memory: Tensor
    attention_mask: Tensor
    cache: Any

    def select(self, indices: Tensor) -> CacheState:
        """The samples at ``indices`` ``[n]``, repeated where an index is."""
        if self.cache.get_seq_length():
            self.cache.reorder_cache(indices)
        return CacheState(self.memory[indices], self.attention_mask[indices], self.cache)

    def select_target(self, indices: Tensor) -> CacheState:
        """:meth:`select`."""
        return self.select(indices)


@final
class PretrainedSeq2Seq(nn.Module):
    """See :func:`transformers_seq2seq`. Called as ``network(input_ids, attention_mask, decoder_input_ids)``.

    Some networks have more tokens than their tokenizer, since they round up the number; the task leaves these out.
    Feature layers: those of ``model``.
    """

    def __init__(self, model: nn.Module, *, pairs: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.model, self.pairs = model, pairs
        # Renamed in transformers 5.
        self._cache_name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        # Where positions are embeddings; without the attribute there is no limit.
        if isinstance(limit := getattr(model.config, "max_position_embeddings", None), int):
            self.max_tokens = limit

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """The logits of the token after each of ``decoder_input_ids``, ``[batch, target tokens, vocabulary]``."""
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        ).logits
        return logits

    def load_folder(self, folder: Path) -> None:
        """Load the weights in a folder of ``save_pretrained``.

        Raises:
            LimbeckError: they cannot be read, or are of another network.
        """
        model: Any = self.model
        try:
            model.load_state_dict(_read_model(folder, model.config).state_dict())
        except LimbeckError:
            raise
        except Exception as error:  # transformers raises errors of any type
            raise LimbeckError(f"transformers could not load {folder}: {format_root_cause(error)}") from error

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoded source, ``[batch, source tokens, width]``."""
        model: Any = self.model
        memory: Tensor = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return memory

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """:meth:`forward` of a source that is encoded already."""
        return self._run(decoder_input_ids, memory, attention_mask, use_cache=False)

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> CacheState:
        """The state before the first target token."""
        return self.start_from_memory(self.encode(input_ids, attention_mask), attention_mask)

    def start_from_memory(self, memory: Tensor, attention_mask: Tensor) -> CacheState:
        """:meth:`start_decoding` of a source that is encoded already."""
        from transformers import DynamicCache, EncoderDecoderCache

        return CacheState(memory, attention_mask, EncoderDecoderCache(DynamicCache(), DynamicCache()))

    def decode_step(self, token_ids: Tensor, state: CacheState) -> tuple[Tensor, CacheState]:
        """The logits ``[batch, vocabulary]`` of the token after ``token_ids`` ``[batch]``, and the next state."""
        options = {self._cache_name: state.cache, "use_cache": True}
        return self._run(token_ids[:, None], state.memory, state.attention_mask, **options)[:, -1], state

    def _run(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory), attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids, **options,
        ).logits  # fmt: skip
        return logits
