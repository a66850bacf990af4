"""A speech encoder and a text encoder that meet in one shared layer, for retrieval across modalities.

Two towers as in CLIP (Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020), with a layer on the states of both
as in Chimera (Han, Wang, Ji & Li, Findings of ACL 2021, https://arxiv.org/abs/2105.03095). Speech goes through the
convolutions of :func:`~limbeck.models.conv_ctc`, text through transformer blocks or a pretrained encoder. States of
both are projected to one width, changed by the shared layer, and averaged to an embedding. Padding changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.conv_ctc import ConvCTC
from limbeck.models.options import require_positive
from limbeck.models.pretrained_text import PretrainedText, transformers
from limbeck.models.text_encoder import TextEncoder, _Block
from limbeck.models.weights import read_weights

__all__ = ["SpeechTextEncoder", "speech_text_encoder"]

SharedKind = Literal["linear", "transformer", "none"]


def speech_text_encoder(
    *, embedding_dim: int = 128, shared: SharedKind = "linear", shared_weights: str | Path | None = None,
    speech_width: int | None = 96, speech_depth: int = 4, kernel: int = 9, stride: int = 4,
    text_width: int = 64, text_depth: int = 1, text_path: str | None = None, num_heads: int = 4, max_tokens: int = 512,
    dropout: float = 0.1, num_tokens: int = 0, mels: int = 40, vocab_size: int = 30522,
) -> SpeechTextEncoder:  # fmt: skip
    """Two encoders with a shared layer, and a CTC head on the speech encoder.

    Args:
        embedding_dim: width of the shared layer and of the embeddings.
        shared: the layer on the states of both sides: ``linear`` (LayerNorm and a linear layer), ``transformer`` (a
            block with attention), or ``none``.
        shared_weights: a run folder or a file with a network of this kind, whose shared layer this one inherits. Freeze
            it with ``freeze: [shared]``.
        speech_width: channels of the speech encoder; ``None``: no speech encoder, so it has no speech embeddings.
        speech_depth: its blocks.
        kernel: frames of a convolution of a block.
        stride: input frames for each frame of its states.
        text_width: channels of the text encoder.
        text_depth: its blocks; 0 averages embeddings of tokens.
        text_path: a pretrained text encoder in place of it: a folder or an installed package, as in
            :func:`~limbeck.models.transformers`.
        num_heads: attention heads of the text encoder and of the shared layer.
        max_tokens: largest number of tokens of a text.
        dropout: of the text encoder, and of the states of speech.
        num_tokens: classes of the CTC head, with the blank; 0: no head.
        mels: width of a frame.
        vocab_size: number of token ids.

    Raises:
        LimbeckError: an option is out of range, or there is nothing to inherit at ``shared_weights``.

    >>> network = speech_text_encoder(embedding_dim=8, speech_width=4, text_width=4, mels=5, vocab_size=9, num_tokens=3)
    >>> ids = torch.tensor([[2, 3, 0]])
    >>> outputs = network(torch.zeros(1, 10, 5), torch.tensor([10]), ids, (ids > 0).long())
    >>> {name: list(tensor.shape) for name, tensor in outputs.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'frame_logits': [1, 3, 3], 'speech_states': [1, 3, 8], 'speech_embedding': [1, 8], 'text_states': [1, 3, 8],
     'text_embedding': [1, 8]}
    """
    require_positive(embedding_dim=embedding_dim, num_heads=num_heads)
    if shared not in ("linear", "transformer", "none"):
        raise LimbeckError(f"shared must be linear, transformer or none, got {shared!r}")
    if not 0 <= dropout < 1 or num_tokens < 0:
        raise LimbeckError(f"dropout must be in [0, 1) and num_tokens at least 0, got {dropout} and {num_tokens}")
    speech = None
    if speech_width is not None:
        conv = ConvCTC(speech_width, speech_depth, kernel, stride, max(num_tokens, 1), mels)
        speech = _SpeechTower(conv, speech_width, embedding_dim, dropout, has_head=num_tokens > 0)
    text: _TextTower | _PretrainedTower
    if text_path is None:
        encoder = TextEncoder(text_width, text_depth, num_heads, max_tokens, dropout, 1, vocab_size)
        text = _TextTower(encoder, text_width, embedding_dim)
    else:
        text = _PretrainedTower(text_path, embedding_dim)
    network = SpeechTextEncoder(speech, text, _SharedLayer(shared, embedding_dim, num_heads, dropout))
    if shared_weights is not None:
        _inherit_shared_layer(network, shared_weights)
    return network


@final
class SpeechTextEncoder(nn.Module):
    """See :func:`speech_text_encoder`. Returns tensors by name; those of speech only with a speech encoder.

    - ``frame_logits`` ``[batch, frames, classes]`` of the CTC head, if it has one
    - ``speech_states`` ``[batch, frames, width]``, ``speech_embedding`` ``[batch, width]``
    - ``text_states`` ``[batch, tokens, width]``, ``text_embedding`` ``[batch, width]``

    The embedding of a sample without frames, or without tokens, is zero. Feature layers: ``speech``, ``text`` and
    ``shared``.
    """

    def __init__(self, speech: _SpeechTower | None, text: _TextTower | _PretrainedTower, shared: _SharedLayer) -> None:
        super().__init__()
        self.speech, self.text, self.shared = speech, text, shared

    def forward(
        self, input: Tensor, input_length: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        if self.speech is not None:
            states = self.speech(input, input_length)
            if self.speech.head is not None:
                outputs["frame_logits"] = self.speech.head(states)
            num_frames = (input_length + self.speech.stride - 1) // self.speech.stride
            is_frame = torch.arange(states.shape[1], device=states.device) < num_frames[:, None]
            outputs |= self._share("speech", self.speech.projection(states), is_frame)
        is_token = attention_mask.bool()
        return outputs | self._share("text", self.text(input_ids, _mask_first(is_token)), is_token)

    def _share(self, side: str, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The states behind the shared layer, and their mean."""
        states = self.shared(states, _mask_first(mask)) * mask[:, :, None]
        return {f"{side}_states": states, f"{side}_embedding": states.sum(1) / mask.sum(1).clamp(min=1)[:, None]}


@final
class _SpeechTower(nn.Module):
    """The states of frames, with the CTC head and the projection to the shared width."""

    def __init__(self, conv: ConvCTC, width: int, embedding_dim: int, dropout: float, *, has_head: bool) -> None:
        super().__init__()
        self.stride = conv.stride
        self.head = conv.classifier if has_head else None
        del conv.classifier
        self.conv, self.dropout = conv, nn.Dropout(dropout)
        self.projection = nn.Linear(width, embedding_dim)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        states: Tensor = self.dropout(self.conv.encode(frames, lengths))
        return states


@final
class _TextTower(nn.Module):
    """The states of tokens at the shared width, of a small encoder."""

    def __init__(self, encoder: TextEncoder, width: int, embedding_dim: int) -> None:
        super().__init__()
        del encoder.fc
        self.encoder, self.projection = encoder, nn.Linear(width, embedding_dim)

    def forward(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        states: Tensor = self.projection(self.encoder.norm(self.encoder.encode(input_ids, is_token)))
        return states


@final
class _PretrainedTower(nn.Module):
    """The last hidden states of a pretrained encoder, projected where its width is not the shared one."""

    def __init__(self, path: str, embedding_dim: int) -> None:
        super().__init__()
        model = transformers(path, classes=1)
        if not isinstance(model, PretrainedText):
            raise LimbeckError(f"text_path must be a text encoder, got the image classifier {path}")
        self.encoder = model.encoder
        width = model.fc.in_features
        self.projection = nn.Identity() if width == embedding_dim else nn.Linear(width, embedding_dim)

    def forward(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=is_token.long()).last_hidden_state
        projected: Tensor = self.projection(states)
        return projected


@final
class _SharedLayer(nn.Module):
    """One layer on the states of both sides."""

    def __init__(self, kind: SharedKind, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.block = self.linear = None
        if kind == "transformer":
            if width % num_heads:
                raise LimbeckError(f"embedding_dim must be a multiple of the {num_heads} heads, got {width}")
            self.block = _Block(width, num_heads, dropout)
        elif kind == "linear":
            self.linear = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.block is not None:
            states = self.block(states, mask)
        return states if self.linear is None else self.linear(states)


def _mask_first(mask: Tensor) -> Tensor:
    """``mask`` with the first position of each empty sample, since attention to nothing is NaN."""
    is_first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (is_first & ~mask.any(dim=1, keepdim=True))


def _inherit_shared_layer(network: SpeechTextEncoder, path: str | Path) -> None:
    """Load the weights under ``shared`` of another network into the shared layer."""
    own = network.shared.state_dict()
    state = read_weights(path)
    inherited = {name.removeprefix("shared."): tensor for name, tensor in state.items() if name.startswith("shared.")}
    shapes = {name: list(tensor.shape) for name, tensor in own.items()}
    given = {name: list(tensor.shape) for name, tensor in inherited.items()}
    if not own or shapes != given:
        raise LimbeckError(
            f"shared_weights must have a shared layer of the shapes {shapes or 'of a layer, and shared is none'}, and "
            f"{path} has {given or 'none'}: use the same embedding_dim and shared"
        )
    network.shared.load_state_dict(inherited)
