"""Encoder–decoder networks of speech or of text with one target vocabulary, which can teach each other word by word.

The decoder is that of :func:`~limbeck.models.seq2seq_transformer`. Speech goes through the convolutions of
:func:`~limbeck.models.conv_ctc` before the transformer encoder.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.conv_ctc import ConvCTC
from limbeck.models.options import require_positive
from limbeck.models.seq2seq import Seq2SeqTransformer

__all__ = ["SpeechTextTranslator", "speech_text_translator"]


def speech_text_translator(
    *, side: Literal["speech", "text"], width: int = 128, depth: int = 2, decoder_depth: int = 2, num_heads: int = 4,
    mlp_ratio: int = 4, dropout: float = 0.1, max_tokens: int = 128, speech_width: int = 96, speech_depth: int = 4,
    kernel: int = 9, stride: int = 4, mels: int = 40, vocab_size: int = 4000,
) -> SpeechTextTranslator:  # fmt: skip
    """A translator that reads one side of a sample, its speech or its text.

    Args:
        side: what it reads: ``speech`` or ``text``.
        width: channels of encoder and decoder; a multiple of 2 and of ``num_heads``.
        depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        num_heads: heads of each attention.
        mlp_ratio: channels inside the MLP by ``width``.
        dropout: of embeddings and of each block.
        max_tokens: the longest source text or target.
        speech_width: channels of the convolutions.
        speech_depth: their blocks.
        kernel: frames of a convolution of a block.
        stride: input frames for each frame that the encoder reads.
        mels: width of a frame.
        vocab_size: size of the vocabulary of source and target, a fact of the data.

    >>> ids, mask = torch.tensor([[5, 7]]), torch.tensor([[1, 1]])
    >>> network = speech_text_translator(side="speech", width=8, speech_width=4, mels=5, vocab_size=10)
    >>> network(torch.zeros(1, 9, 5), torch.tensor([9]), ids, mask, torch.tensor([[2, 4, 3]]))["logits"].shape
    torch.Size([1, 3, 10])
    """
    if side not in ("speech", "text"):
        raise LimbeckError(f"side must be speech or text, got {side!r}")
    require_positive(max_tokens=max_tokens)
    translator = Seq2SeqTransformer(width, depth, decoder_depth, num_heads, mlp_ratio, dropout, max_tokens, vocab_size)
    conv = ConvCTC(speech_width, speech_depth, kernel, stride, 1, mels) if side == "speech" else None
    return SpeechTextTranslator(translator, conv, speech_width, width)


@final
class SpeechTextTranslator(nn.Module):
    """See :func:`speech_text_translator`. Takes both sides of a sample and reads one.

    Returns by name ``logits`` ``[batch, target tokens, vocabulary]`` of the token after each of ``decoder_input_ids``,
    and ``valid`` ``[batch]``, false for samples without the side that it reads.
    """

    def __init__(self, translator: Seq2SeqTransformer, conv: ConvCTC | None, speech_width: int, width: int) -> None:
        super().__init__()
        self.translator, self.conv = translator, conv
        self.projection = None if conv is None else nn.Linear(speech_width, width)
        if conv is not None:
            del conv.classifier

    def forward(
        self, input: Tensor, input_length: Tensor, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> dict[str, Tensor]:
        if self.conv is None or self.projection is None:
            mask = attention_mask.bool()
            memory = self.translator.encode(input_ids, _mask_first(mask))
        else:
            num_frames = (input_length + self.conv.stride - 1) // self.conv.stride
            memory = self.projection(self.conv.encode(input, input_length))
            mask = torch.arange(memory.shape[1], device=memory.device) < num_frames[:, None]
            memory = self.translator.encode_states(memory, _mask_first(mask))
        logits = self.translator.decode(decoder_input_ids, memory, _mask_first(mask))
        return {"logits": logits, "valid": mask.any(dim=1)}


def _mask_first(mask: Tensor) -> Tensor:
    """``mask`` with the first position of each empty sample, since attention to nothing is NaN."""
    is_first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (is_first & ~mask.any(dim=1, keepdim=True))
