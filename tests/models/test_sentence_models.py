"""Sentence encoders: padding changes nothing, and a student starts from the tokens and layers of a larger model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.models import load_weights, sentence_encoder
from limbeck.models.sentence_encoder import reduce_width

VOCAB = 20


def make_batch():
    ids = torch.randint(1, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]).long()


def save_tokens(folder, rows):
    from safetensors.torch import save_file

    (folder / "config.json").write_text("{}")
    save_file({"embeddings.word_embeddings.weight": rows}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("options", [{"depth": 0}, {"depth": 2, "embedding_dim": 5}], ids=str)
def test_padding_changes_nothing(options):
    torch.manual_seed(0)
    network, (ids, mask) = sentence_encoder(width=8, vocab_size=VOCAB, **options).eval(), make_batch()
    embedding = network(ids, mask)
    assert embedding.shape == (4, options.get("embedding_dim", 8))
    torch.testing.assert_close(network(ids.masked_fill(mask == 0, 7), mask), embedding)
    torch.testing.assert_close(network(ids[1:2, :2], mask[1:2, :2]), embedding[1:2])


def test_a_static_embedding_is_the_weighted_mean_of_its_tokens():
    counts = list(range(VOCAB))
    network, (ids, mask) = sentence_encoder(width=8, vocab_size=VOCAB, token_counts=counts), make_batch()
    frequency = np.array(counts) / sum(counts)
    sif = 1e-3 / (1e-3 + frequency)
    rows = network.embedding.weight.detach().double().numpy()
    for i in range(4):
        tokens = ids[i][mask[i] == 1].numpy()
        expected = (sif[tokens, None] * rows[tokens]).sum(axis=0) / sif[tokens].sum()
        np.testing.assert_allclose(network(ids, mask)[i].detach().numpy(), expected, atol=1e-6)


def test_token_embeddings_start_from_the_principal_components_of_a_model(tmp_path):
    rows = torch.tensor(np.random.default_rng(0).normal(size=(VOCAB, 6)) * [5, 4, 3, 1, 0.1, 0.1]).float()
    network = sentence_encoder(width=3, vocab_size=VOCAB, path=save_tokens(tmp_path, rows))
    centered = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ directions[:3].T
    expected /= np.sqrt((expected**2).sum(axis=1).mean())
    actual = network.embedding.weight.detach().double().numpy()
    np.testing.assert_allclose(actual @ actual.T, expected @ expected.T, atol=1e-5)  # but for signs
    assert reduce_width(rows, 6).square().sum(dim=1).mean() == pytest.approx(1.0, abs=1e-5)


def test_settings_that_do_not_fit_are_refused(tmp_path):
    path = save_tokens(tmp_path, torch.randn(VOCAB, 6))
    with pytest.raises(LimbeckError, match=r"has 20 tokens, and the data 30: set data\.tokenizer to"):
        sentence_encoder(width=4, vocab_size=30, path=path)
    with pytest.raises(LimbeckError, match="width must be at most 6"):
        sentence_encoder(width=7, vocab_size=VOCAB, path=path)
    with pytest.raises(LimbeckError, match="token_counts must be of the 20 tokens, got 1"):
        sentence_encoder(width=4, vocab_size=VOCAB, token_counts=[1])
    with pytest.raises(LimbeckError, match="width must be a multiple of the 4 heads, got 6"):
        sentence_encoder(width=6, depth=1)
    (tmp_path / "model.safetensors").write_bytes(b"{")
    with pytest.raises(LimbeckError, match="cannot be read"):
        sentence_encoder(width=4, vocab_size=VOCAB, path=path)
    with pytest.raises(LimbeckError, match="at most max_tokens 3 tokens, got 6"):
        sentence_encoder(width=4, depth=1, max_tokens=3, vocab_size=VOCAB)(*make_batch())


@pytest.fixture
def bert(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).eval().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(16))]))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return tmp_path


def test_a_student_keeps_layers_of_its_teacher(bert):
    from transformers import AutoModel

    from limbeck.models import sentence_transformer

    ids, mask = make_batch()
    teacher = sentence_transformer(str(bert)).eval()
    states = AutoModel.from_pretrained(bert).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.stack([row[: int(keep.sum())].mean(dim=0) for row, keep in zip(states, mask, strict=True)])
    torch.testing.assert_close(teacher(ids, mask), expected)
    student = sentence_transformer(str(bert), layers=[0, 2], embedding_dim=5).eval()
    assert student(ids, mask).shape == (4, 5)
    for kept, index in enumerate((0, 2)):
        parts = [n.encoder.encoder.layer[i].state_dict() for n, i in ((student, kept), (teacher, index))]
        assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    random = sentence_transformer(str(bert), pretrained=False)
    torch.testing.assert_close(load_weights(random, bert).eval()(ids, mask), expected)


def test_what_does_not_fit_the_model_is_refused(bert):
    from limbeck.models import sentence_transformer

    with pytest.raises(LimbeckError, match=r"layers must be indices from 0 to 2, got \[3\]"):
        sentence_transformer(str(bert), layers=[3])
    with pytest.raises(LimbeckError, match=r"must be those of .*, got 2 others: set data\.tokenizer"):
        sentence_transformer(str(bert), vocabulary=["a", "b"])
    with pytest.raises(LimbeckError, match="has no weights of the projection: remove embedding_dim"):
        load_weights(sentence_transformer(str(bert), embedding_dim=4), bert)
    with pytest.raises(LimbeckError, match="pooling must be mean or cls, got 'max'"):
        sentence_transformer(str(bert), pooling="max")
