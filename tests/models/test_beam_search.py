"""Beam search agrees with all sentences of a tiny vocabulary, and with the decoder that keeps nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import LimbeckError
from limbeck.models.beam_search import PADDING, UncachedDecoder, beam_search
from limbeck.models.seq2seq import seq2seq_transformer

START, END = 0, 1


def make_network(vocab_size=4, **options):
    torch.manual_seed(0)
    network = seq2seq_transformer(width=8, num_heads=2, depth=1, vocab_size=vocab_size, max_tokens=16, **options).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(3)  # distributions far from uniform
    return network


def make_batch(num_samples=5, vocab_size=4):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(num_samples) % 4 + 1
    ids = torch.randint(0, vocab_size, (num_samples, 4), generator=generator)
    return ids, (torch.arange(4) < lengths[:, None]).long()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@torch.no_grad()
def sentence_score(network, ids, mask, tokens, length_penalty):
    decoder_ids = torch.tensor([[START, *tokens[:-1]]])
    log_p = log_softmax(network(ids, mask, decoder_ids)[0].numpy())
    return log_p[np.arange(len(tokens)), list(tokens)].sum() / len(tokens) ** length_penalty


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_search_finds_the_best_of_all_sentences(length_penalty):
    network, (ids, mask) = make_network(), make_batch()
    max_tokens, others = 3, [0, 2, 3]
    sentences = [(*prefix, END) for n in range(max_tokens) for prefix in itertools.product(others, repeat=n)] + list(
        itertools.product(others, repeat=max_tokens)
    )  # the last are cut at max_tokens
    found = beam_search(
        network, ids, mask, start_id=START, end_id=END, num_beams=64, max_tokens=max_tokens,
        length_penalty=length_penalty,
    )  # fmt: skip
    for i in range(len(ids)):
        scores = [sentence_score(network, ids[i : i + 1], mask[i : i + 1], s, length_penalty) for s in sentences]
        best = sentences[int(np.argmax(scores))]
        assert tuple(found.tokens[i, : found.lengths[i]].tolist()) == best
        assert float(found.scores[i]) == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_kept_keys_and_values_change_nothing(num_beams):
    network, (ids, mask) = make_network(9), make_batch(7, 9)
    options = {"start_id": START, "end_id": END, "num_beams": num_beams, "max_tokens": 9}
    cached, plain = (
        beam_search(network, ids, mask, **options),
        beam_search(UncachedDecoder(network), ids, mask, **options),
    )
    assert torch.equal(cached.tokens, plain.tokens)
    torch.testing.assert_close(cached.scores, plain.scores)
    for i in range(len(ids)):  # nor do the other sentences, or padding
        num_tokens = int(mask[i].sum())
        single = beam_search(network, ids[i : i + 1, :num_tokens], mask[i : i + 1, :num_tokens], **options)
        assert single.tokens[0].tolist() == cached.tokens[i, : cached.lengths[i]].tolist()
        assert bool((cached.tokens[i, cached.lengths[i] :] == PADDING).all())
        score = sentence_score(network, ids[i : i + 1], mask[i : i + 1], single.tokens[0].tolist(), 1.0)
        assert float(cached.scores[i]) == pytest.approx(score, abs=1e-5)


def test_steps_of_the_decoder_are_the_logits_of_all_tokens_at_once():
    network, (ids, mask) = make_network(9, decoder_depth=2), make_batch(3, 9)
    target = torch.tensor([[0, 5, 2, 8], [0, 3, 3, 1], [0, 7, 4, 6]])
    with torch.no_grad():
        expected, state = network(ids, mask, target), network.start_decoding(ids, mask)
        for t in range(4):
            logits, state = network.decode_step(target[:, t], state)
            torch.testing.assert_close(logits, expected[:, t])
    assert state.num_tokens == 4


class Scripted(nn.Module):
    """The logits of each step, whatever the input."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        return self.logits[: decoder_input_ids.shape[1]].expand(len(input_ids), -1, -1)


def test_one_beam_takes_the_most_likely_token():
    # The end is the second choice of the first step, and the first choice of the second.
    network = Scripted([[0.1, 0.4, 0.5], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    found = beam_search(network, torch.ones(2, 1).long(), torch.ones(2, 1), start_id=0, end_id=1, num_beams=1)
    assert found.tokens.tolist() == [[2, 1], [2, 1]]
    assert float(found.scores[0]) == pytest.approx(np.log(0.5 * 0.6) / 2, abs=1e-6)
    # Two beams without a penalty find the shorter sentence, which is more likely.
    wide = beam_search(
        network, torch.ones(2, 1).long(), torch.ones(2, 1), start_id=0, end_id=1, num_beams=2, length_penalty=0.0,
        max_tokens=3,
    )  # fmt: skip
    assert wide.tokens.tolist() == [[1], [1]]


def test_padding_changes_no_logits_and_gradients_reach_all_parameters():
    network, (ids, mask) = make_network(9).train(), make_batch(4, 9)
    target = torch.tensor([[0, 5, 2, 8]]).expand(4, -1)
    wide_ids, wide_mask = torch.cat([ids, torch.full((4, 3), 7)], 1), torch.cat([mask, torch.zeros(4, 3).long()], 1)
    torch.testing.assert_close(network.eval()(ids, mask, target), network(wide_ids, wide_mask, target))
    later = torch.cat([target[:, :3], torch.full((4, 1), 1)], dim=1)
    torch.testing.assert_close(network(ids, mask, later)[:, :3], network(ids, mask, target)[:, :3])
    network(ids, mask, target).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.parameters())


def test_the_number_of_parameters_is_as_documented():
    width, depth, decoder_depth, ratio, vocab = 8, 2, 3, 4, 11
    network = seq2seq_transformer(width=width, num_heads=2, depth=depth, decoder_depth=decoder_depth, vocab_size=vocab)
    expected = vocab * (width + 1) + 4 * width
    expected += depth * ((4 + 2 * ratio) * width**2 + (9 + ratio) * width)
    expected += decoder_depth * ((8 + 2 * ratio) * width**2 + (15 + ratio) * width)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 9}, "width must be a multiple of 2"), ({"depth": 0}, "depth must be an integer of at least 1"),
     ({"pairs": ["xx-en"], "class_names": ["de-en"]}, "pairs must be language pairs of the data, got 'xx-en'")],
)  # fmt: skip
def test_wrong_options_are_refused(options, message):
    with pytest.raises(LimbeckError, match=message):
        seq2seq_transformer(**{"width": 8, "num_heads": 2, "vocab_size": 9, **options})


def test_long_sentences_and_no_beam_are_refused():
    network, (ids, mask) = make_network(), make_batch()
    with pytest.raises(LimbeckError, match="at most max_tokens 16 tokens, got 17"):
        network(ids, mask, torch.zeros(5, 17).long())
    with pytest.raises(LimbeckError, match="num_beams and max_tokens must be at least 1, got 0 and 4"):
        beam_search(network, ids, mask, start_id=START, end_id=END, num_beams=0, max_tokens=4)
