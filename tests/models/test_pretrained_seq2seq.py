"""Encoder–decoder networks of transformers: the same logits in one pass and step by step, and in the task."""

from __future__ import annotations

import shutil

import pytest
import torch

from limbeck import LimbeckError
from limbeck.core.protocols import Teacher
from limbeck.models import load_weights, transformers_seq2seq
from limbeck.models.beam_search import UncachedDecoder, beam_search
from limbeck.recipe import find_recipe, load_recipe
from limbeck.tasks import Translation
from limbeck.teachers import FrozenTeacher

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'limbeck[text]'")
VOCAB = 20


def configs():
    shared = {
        "vocab_size": VOCAB, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
    }  # fmt: skip
    t5 = {"vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 2,
          "num_heads": 2, "decoder_start_token_id": 0}  # fmt: skip
    # NLLB is an M2M100; Marian is that of OPUS-MT.
    return {
        "nllb": transformers.M2M100Config(**shared), "marian": transformers.MarianConfig(**shared),
        "t5": transformers.T5Config(**t5),
    }  # fmt: skip


@pytest.fixture(scope="module", params=("nllb", "marian", "t5"))
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    transformers.AutoModelForSeq2SeqLM.from_config(configs()[request.param]).save_pretrained(path)
    return path


def make_batch():
    ids = torch.randint(3, VOCAB, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])
    target = torch.tensor([[5, 7, 9, 2], [4, 2, -100, -100], [8, 8, 2, -100]])
    return {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask, "target": target}


def test_one_pass_steps_and_the_model_itself_agree(folder):
    batch, network = make_batch(), transformers_seq2seq(str(folder), vocab_size=VOCAB).eval()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    tokens = torch.tensor([[2, 5, 7], [2, 4, 2], [2, 8, 8]])
    with torch.no_grad():
        whole = network(**inputs, decoder_input_ids=tokens)
        expected = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()(
            **inputs, decoder_input_ids=tokens
        ).logits  # fmt: skip
        torch.testing.assert_close(whole, expected)
        memory = network.encode(**inputs)
        torch.testing.assert_close(network.decode(tokens, memory, inputs["attention_mask"]), expected)
        state = network.start_decoding(**inputs)
        for step in range(3):
            logits, state = network.decode_step(tokens[:, step], state)
            torch.testing.assert_close(logits, expected[:, step], rtol=1e-4, atol=1e-5)
        state = state.select(torch.tensor([2, 0]))
        logits, _ = network.decode_step(torch.tensor([6, 6]), state)
        longer = torch.cat([tokens[[2, 0]], torch.tensor([[6], [6]])], dim=1)
        again = network(**{name: value[[2, 0]] for name, value in inputs.items()}, decoder_input_ids=longer)[:, -1]
        torch.testing.assert_close(logits, again, rtol=1e-4, atol=1e-5)


def test_a_search_with_stored_keys_is_that_without(folder):
    batch, network = make_batch(), transformers_seq2seq(str(folder), vocab_size=VOCAB).eval()
    options = {"start_id": 2, "end_id": 2, "num_beams": 3, "max_tokens": 7}
    found = beam_search(network, batch["input_ids"], batch["attention_mask"], **options)
    plain = beam_search(UncachedDecoder(network), batch["input_ids"], batch["attention_mask"], **options)
    assert torch.equal(found.tokens, plain.tokens)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-4, atol=1e-5)


def test_it_teaches_with_its_own_translations(folder):
    batch = make_batch() | {"view": torch.zeros(3, dtype=torch.long)}
    task = Translation(vocab_size=VOCAB, decoder_start_token_id=2, eos_token_id=2, hypothesis_beams=2, max_tokens=6)
    network = transformers_seq2seq(str(folder), vocab_size=VOCAB)
    teacher: Teacher = FrozenTeacher(network)
    prepared, _ = task.prepare_batch(network, batch, lambda b: {"teacher": teacher.predict(b, task)})
    assert prepared["hypothesis"].shape[0] == 3
    outputs = task.outputs(network, prepared)
    assert len(outputs.require_logits()) == int((batch["target"] >= 0).sum() + prepared["hypothesis_length"].sum())


def test_what_does_not_fit_is_one_sentence(folder, tmp_path):
    with pytest.raises(LimbeckError, match="must have each of the 21 tokens of the data, got 20"):
        transformers_seq2seq(str(folder), vocab_size=21)
    with pytest.raises(LimbeckError, match="pairs must be language pairs of the data, got 'xx-en'"):
        transformers_seq2seq(str(folder), vocab_size=VOCAB, pairs=["xx-en"], class_names=["de-en"])
    transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    ).save_pretrained(tmp_path)
    with pytest.raises(LimbeckError, match="transformers could not load"):
        transformers_seq2seq(str(tmp_path), vocab_size=VOCAB, pretrained=False)


def test_weights_of_another_network_are_refused_and_change_nothing(folder, tmp_path):
    """transformers itself would draw the weights that are missing at random."""
    network = transformers_seq2seq(str(folder), vocab_size=VOCAB)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    config = transformers.BertConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(LimbeckError, match=r"the weights in .*bert must be those of a .* is missing: give another"):
        load_weights(network, tmp_path / "bert")
    shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(tmp_path / "bert" / "model.safetensors", tmp_path / "mixed" / "model.safetensors")
    with pytest.raises(LimbeckError, match=r"the weights in .*mixed must be those of a"):
        transformers_seq2seq(str(tmp_path / "mixed"), vocab_size=VOCAB)
    (tmp_path / "mixed" / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(LimbeckError, match=r"transformers could not load .*mixed"):
        load_weights(network, tmp_path / "mixed")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_recipe_names_what_exists():
    recipe = load_recipe(find_recipe("nllb_full"))
    assert recipe.teachers["teacher"].use == "transformers_seq2seq"
