"""Translation networks as they are deployed."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from limbeck.tasks.translation.rows import call_network

__all__ = ["ForcedDecoder"]


@final
class ForcedDecoder(nn.Module):
    """A translation network that takes its three inputs in order and returns its logits.

    Args:
        network: called as ``network(input_ids=…, attention_mask=…, decoder_input_ids=…)``.
        vocab_size: number of tokens.
    """

    def __init__(self, network: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.network, self.vocab_size = network, vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        return call_network(self.network, inputs, self.vocab_size)
