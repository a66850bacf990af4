"""Frames of a streaming network depend on what came before, and on no more of what follows than is stated."""

from __future__ import annotations

import pytest
import torch

from limbeck import LimbeckError
from limbeck.models import conv_ctc


@pytest.mark.parametrize(("lookahead", "stride", "kernel"), [(0, 2, 9), (1, 2, 9), (2, 3, 5), (0, 1, 4)])
def test_a_frame_depends_on_the_stated_future_only(lookahead, stride, kernel):
    torch.manual_seed(0)
    depth, frame = 2, 10
    network = conv_ctc(width=8, depth=depth, kernel=kernel, stride=stride, lookahead=lookahead, classes=5, mels=4)
    network = network.double().eval()
    frames = torch.randn(1, 30 * stride, 4, dtype=torch.float64, requires_grad=True)
    network(frames, torch.tensor([30 * stride]))[0, frame].sum().backward()
    seen = frames.grad[0].abs().sum(dim=1).nonzero()[:, 0]
    assert int(seen.max()) == frame * stride + stride * (1 + depth * lookahead) - 1
    before = depth * (kernel - 1 - lookahead)
    assert int(seen.min()) == max(0, (frame - before) * stride - 2)


def test_a_stream_gives_the_logits_of_the_whole_clip():
    torch.manual_seed(0)
    network = conv_ctc(width=8, depth=3, stride=2, lookahead=0, classes=5, mels=4).eval()
    frames = torch.randn(1, 41, 4)
    whole = network(frames, torch.tensor([41]))
    for end in (2, 8, 20, 40):
        part = network(frames[:, :end], torch.tensor([end]))
        torch.testing.assert_close(part, whole[:, : end // 2])


def test_without_lookahead_weights_of_before_give_the_same_logits():
    torch.manual_seed(0)
    network = conv_ctc(width=8, depth=1, kernel=4, classes=5, mels=4).eval()
    features = torch.randn(2, 8, 12)
    block = network.block1
    torch.testing.assert_close(
        block.depthwise(torch.nn.functional.pad(features, block.padding)),
        torch.nn.functional.conv1d(
            features, block.depthwise.weight, block.depthwise.bias, padding="same", groups=8
        ),
    )  # fmt: skip


@pytest.mark.parametrize("lookahead", [-1, 5])
def test_a_lookahead_beyond_half_of_the_kernel_is_refused(lookahead):
    with pytest.raises(LimbeckError, match=f"lookahead must be from 0 to 4, half of kernel 9, got {lookahead}"):
        conv_ctc(lookahead=lookahead)
