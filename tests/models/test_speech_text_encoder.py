"""Two encoders with one shared layer: padding changes nothing, and a shared layer may be inherited."""

from __future__ import annotations

import pytest
import torch

from limbeck import LimbeckError
from limbeck.models import conv_ctc, save_weights, speech_text_encoder

SMALL = {"embedding_dim": 8, "speech_width": 4, "speech_depth": 1, "text_width": 4, "mels": 5, "vocab_size": 9}


def inputs(frames=12, tokens=4):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, frames, 5, generator=generator), torch.tensor([12, 5, 0]),
        torch.randint(1, 9, (3, tokens), generator=generator), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]),
    )  # fmt: skip


@pytest.mark.parametrize("shared", ["linear", "transformer", "none"])
def test_padding_and_what_is_missing_change_nothing(shared):
    network = speech_text_encoder(**SMALL, shared=shared, num_tokens=3, stride=2).eval()
    frames, lengths, ids, mask = inputs()
    outputs = network(frames, lengths, ids, mask)
    longer = network(
        torch.cat([frames, torch.full((3, 4, 5), 9.0)], dim=1), lengths,
        torch.cat([ids, torch.full((3, 2), 7)], dim=1), torch.cat([mask, torch.zeros(3, 2).long()], dim=1),
    )  # fmt: skip
    single = network(frames[1:2, :5], lengths[1:2], ids[2:, :2], mask[2:, :2])
    for name in ("speech_embedding", "text_embedding"):
        torch.testing.assert_close(longer[name], outputs[name])
    torch.testing.assert_close(longer["speech_states"][:, :6], outputs["speech_states"])
    torch.testing.assert_close(longer["text_states"][:, :4], outputs["text_states"])
    torch.testing.assert_close(single["speech_embedding"][0], outputs["speech_embedding"][1])
    torch.testing.assert_close(single["text_embedding"][0], outputs["text_embedding"][2])
    assert not outputs["speech_embedding"][2].any()
    assert not outputs["text_embedding"][1].any()
    outputs["speech_embedding"].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_an_embedding_is_the_mean_of_the_valid_states():
    network = speech_text_encoder(**SMALL, stride=2).eval()
    outputs = network(*inputs())
    torch.testing.assert_close(outputs["speech_embedding"][1], outputs["speech_states"][1, :3].mean(dim=0))
    torch.testing.assert_close(outputs["text_embedding"][2], outputs["text_states"][2, :2].mean(dim=0))
    assert outputs.keys() == {"speech_states", "speech_embedding", "text_states", "text_embedding"}


def test_every_parameter_gets_a_gradient():
    network = speech_text_encoder(**SMALL, shared="transformer", num_tokens=3)
    outputs = network(*inputs())
    sum(tensor.square().sum() for tensor in outputs.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_without_a_speech_encoder_it_embeds_texts_only():
    network = speech_text_encoder(**SMALL | {"speech_width": None})
    assert network(*inputs()).keys() == {"text_states", "text_embedding"}


def test_the_shared_layer_may_be_inherited(tmp_path):
    teacher = speech_text_encoder(**SMALL | {"speech_width": 6, "text_width": 8})
    path = save_weights(teacher, tmp_path / "teacher.safetensors")
    student = speech_text_encoder(**SMALL, shared_weights=path)
    assert student.shared.state_dict().keys() == teacher.shared.state_dict().keys() != set()
    for name, tensor in teacher.shared.state_dict().items():
        assert torch.equal(student.shared.state_dict()[name], tensor)
    for settings in ({"embedding_dim": 4}, {"shared": "none"}, {"shared": "transformer"}):
        with pytest.raises(LimbeckError, match="use the same embedding_dim and shared"):
            speech_text_encoder(**SMALL | settings, shared_weights=path)
    other = save_weights(conv_ctc(width=4), tmp_path / "other.safetensors")
    with pytest.raises(LimbeckError, match="has none"):
        speech_text_encoder(**SMALL, shared_weights=other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": "both"}, "shared must be linear, transformer or none, got 'both'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"num_tokens": -1}, "num_tokens at least 0"),
        ({"embedding_dim": 6, "shared": "transformer"}, "embedding_dim must be a multiple of the 4 heads, got 6"),
        ({"embedding_dim": 0}, "embedding_dim must be an integer of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(LimbeckError, match=message):
        speech_text_encoder(**SMALL | settings)


def test_a_pretrained_text_encoder_of_another_width_is_projected(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'limbeck[text]'")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    encoder = transformers.BertModel(config).eval()
    encoder.save_pretrained(tmp_path)
    frames, lengths, ids, mask = inputs()
    same = speech_text_encoder(**SMALL | {"shared": "none", "text_path": str(tmp_path)}).eval()
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    outputs = same(frames, lengths, ids, mask)
    torch.testing.assert_close(outputs["text_embedding"][2], states[2, :2].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not outputs["text_embedding"][1].any()
    wider = speech_text_encoder(**SMALL | {"embedding_dim": 12, "text_path": str(tmp_path)})
    assert wider(frames, lengths, ids, mask)["text_embedding"].shape == (3, 12)
