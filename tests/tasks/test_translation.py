"""Translation: rows of tokens, BLEU from statistics by sentence, translations of teachers, networks for some pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.data.sources import ParallelText
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import seq2seq_transformer
from limbeck.models.beam_search import Translations
from limbeck.tasks import Translation
from limbeck.tasks.translation import metrics
from limbeck.tasks.translation.metrics import BLEU, BLEU_COLUMNS, CHRF, NLL
from limbeck.tasks.translation.report import mark_differences
from limbeck.testing import check_data_source, check_task

NOUNS, VERBS = ("cat", "dog", "man", "horse", "girl", "bird"), ("sees", "eats", "finds", "likes")
ADJECTIVES = ("big", "small", "old", "red", "calm", "fast")


def write_corpus(root, num_training=120):
    """Two source languages made of English: one reverses the letters of each word, one the words."""
    for split, count, offset in (("train", num_training, 0), ("val", 12, 301), ("test", 12, 401)):
        generator = np.random.default_rng(offset)
        words = [
            [generator.choice(kind) for kind in (ADJECTIVES, NOUNS, VERBS, ADJECTIVES, NOUNS)] for _ in range(count)
        ]
        english = [f"a {a} {b} {c} the {d} {e} ." for a, b, c, d, e in words]
        texts = {
            "en": english,
            "de": [" ".join(word[::-1] for word in line.split()) for line in english],
            "fr": [" ".join(line.split()[::-1]) for line in english],
        }
        for language, lines in texts.items():
            (root / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def make_source(root, **options):
    settings = {"pairs": ("de-en", "fr-en"), "root": str(root), "vocabulary": "words", "vocab_size": 90, **options}
    return ParallelText(**settings)


pytestmark = pytest.mark.filterwarnings("ignore:.*is also in the training files")


def make_network(data, **options):
    torch.manual_seed(options.pop("seed", 0))
    settings = {"width": 8, "num_heads": 2, "depth": 1, "dropout": 0.0, "class_names": data.class_names, **options}
    return seq2seq_transformer(vocab_size=data.facts["vocab_size"], **settings).eval()


def make_translation(data, **options):
    facts = {key: data.facts[key] for key in ("vocab_size", "vocabulary", "decoder_start_token_id", "eos_token_id")}
    return Translation(**facts, **{"max_tokens": 12, "num_beams": 2, **options})


@pytest.fixture(scope="module")
def data(root):
    return make_source(root, num_labeled={"de-en": 60}).load(seed=0)


def training_batch(data, size=8):
    return data.batches(batch_size=size).batch(0)


def test_the_contract_of_tasks_and_sources(root):
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    data = check_data_source(make_source(root, num_labeled={"de-en": 60}))
    vocab_size = data.facts["vocab_size"]

    def oracle(batch):
        return 20.0 * nn.functional.one_hot(batch["target"].clamp(min=0), vocab_size).float()

    task = make_translation(data, num_beams=1)
    check_task(task, data, make_network(data), teacher=make_network(data, width=16, seed=1), oracle=oracle)


def test_bleu_and_chrf_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    hypotheses = ["a cat sees the dog .", "the man", "", "horses eat hay, don't they?", "x y", "a cat sees the dog"]
    references = [
        "a cat sees a dog .",
        "the man eats",
        "girl",
        "horses eat hay , don't they ?",
        "q",
        "a cat sees the dog",
    ]
    statistics = metrics.count_matches(hypotheses, references)
    weights = np.random.default_rng(0).multinomial(6, np.ones(6) / 6, size=40)
    weights[0] = 1
    task = Translation(8)
    for spec, fn in ((BLEU, sacrebleu.corpus_bleu), (CHRF, lambda h, r: sacrebleu.corpus_chrf(h, r, word_order=2))):
        values = task.metric_value(statistics, torch.tensor(weights), metric=spec)
        for value, weight in zip(values.tolist(), weights, strict=True):
            drawn = np.repeat(np.arange(6), weight)
            expected = fn([hypotheses[i] for i in drawn], [[references[i] for i in drawn]]).score
            assert value == pytest.approx(expected, abs=1e-9)
    assert float(task.metric_value(statistics)) == pytest.approx(float(task.metric_value(statistics, metric=BLEU)))
    assert Translation(8, primary="chrf").primary_metric == CHRF
    by_char = metrics.count_matches(["ab"], ["ac"], tokenize="char")
    assert by_char[0, :BLEU_COLUMNS].tolist() == [2, 2, 1, 0, 0, 0, 2, 1, 0, 0]
    assert "tok:char" in metrics.signatures("char")["bleu_signature"]
    assert metrics.signatures("13a")["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:2")
    with pytest.raises(LimbeckError, match="tokenize must be one of"):
        metrics.count_matches(["a"], ["a"], tokenize="words")


def numpy_bleu(hypotheses, references):
    """Papineni et al. (2002), without smoothing, of texts that are split at spaces."""
    counts, totals, lengths = np.zeros(4), np.zeros(4), np.zeros(2)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        words = [hypothesis.split(), reference.split()]
        lengths += [len(w) for w in words]
        for n in range(1, 5):
            grams = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in words]
            counts[n - 1] += sum(min(grams[0].count(g), grams[1].count(g)) for g in set(grams[0]))
            totals[n - 1] += len(grams[0])
    return 100 * np.exp(np.log(counts / totals).mean() + min(0.0, 1 - lengths[1] / lengths[0]))


def test_bleu_is_that_of_numpy():
    sums = torch.tensor([[20.0, 24, 15, 10, 6, 3, 20, 18, 16, 14], [9, 4, 4, 3, 2, 1, 9, 8, 7, 6]]).double()
    for row, value in zip(sums.numpy(), metrics.bleu(sums).numpy(), strict=True):
        expected = 100 * np.exp(np.log(row[2:6] / row[6:]).mean() + min(0.0, 1 - row[1] / row[0]))
        assert value == pytest.approx(expected, abs=1e-9)
    hypothesis, reference = ["a b c d e f", "a b c d"], ["a b c d f e g", "a b c d e"]
    assert numpy_bleu(hypothesis, reference) == pytest.approx(
        float(metrics.bleu(torch.tensor([10.0, 12, 10, 6, 4, 2, 10, 8, 6, 4]).double())), abs=1e-9
    )


def test_rows_are_the_tokens_of_the_targets(data):
    task, network, batch = make_translation(data), make_network(data), training_batch(data)
    outputs, target = task.outputs(network, batch), task.target(batch)
    lengths = batch["target_length"].clamp(min=0)
    assert len(outputs.logits) == len(target) == int(lengths.sum())
    assert outputs.row_to_sample.tolist() == torch.arange(8).repeat_interleave(lengths).tolist()
    assert torch.equal(outputs.by_row["token"], target)
    assert not outputs.by_row["is_hypothesis"].any()
    i = int(lengths.argmax())
    tokens = batch["target"][i, : lengths[i]]
    with torch.no_grad():
        source = {name: batch[name][i : i + 1] for name in ("input_ids", "attention_mask")}
        decoder_ids = torch.cat([torch.tensor([1]), tokens[:-1]])[None]
        single = network(**source, decoder_input_ids=decoder_ids)[0]
    torch.testing.assert_close(outputs.logits[outputs.row_to_sample == i], single)
    # transformers calls the target `labels`, and has no lengths.
    renamed = {
        ("labels" if name == "target" else name): value for name, value in batch.items() if name != "target_length"
    }
    torch.testing.assert_close(task.outputs(network, renamed).logits, outputs.logits)


def test_the_monitored_likelihood_is_that_of_numpy(data):
    task, network = make_translation(data), make_network(data)
    batch = next(data.validation_batches(batch_size=5))
    batch["target_length"] = batch["target_length"].clone()
    batch["target_length"][2] = -1
    with torch.no_grad():
        rows = task.monitor(network, batch)
        logits = task.outputs(network, batch).logits.double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = -log_p[np.arange(len(log_p)), task.target(batch).numpy()]
    value = task.metric_value(rows[torch.arange(5) != 2], metric=NLL)
    assert rows[2].isnan().all()
    assert float(value) == pytest.approx(losses.mean(), rel=1e-5)


def test_translations_of_teachers_are_further_rows(data):
    task = make_translation(data, hypothesis_beams=2)
    student, teacher, batch = make_network(data), make_network(data, seed=3), training_batch(data, 16)
    student.train()
    seen = {}

    def query(queried):
        with torch.no_grad():
            seen.update(teacher=task.outputs(teacher, queried))
        return seen

    prepared, teacher_batch = task.prepare_batch(student, batch, query)
    own = seen["teacher"].by_sample["hypothesis"]
    assert torch.equal(prepared["hypothesis"], own.masked_fill(own < 0, -100))
    assert "token_logits" not in task.outputs(student, batch).by_sample
    outputs, target = task.outputs(student, prepared), task.target(prepared)
    is_hypothesis, lengths = outputs.by_row["is_hypothesis"], prepared["hypothesis_length"]
    assert len(outputs.logits) == len(target) == int(batch["target_length"].clamp(min=0).sum() + lengths.sum())
    assert bool((target[is_hypothesis] == -100).all())
    assert torch.equal(outputs.by_row["token"][~is_hypothesis], target[~is_hypothesis])
    # Samples without a target have a translation.
    unlabeled = (batch["target_length"] < 0).nonzero()[:, 0].tolist()
    assert unlabeled
    assert set(unlabeled) <= set(outputs.row_to_sample[is_hypothesis].tolist())
    with torch.no_grad():
        forced = task.outputs(teacher, teacher_batch)
    assert torch.equal(forced.by_row["token"], outputs.by_row["token"])
    assert torch.equal(forced.row_to_sample, outputs.row_to_sample)
    with torch.no_grad():  # the student's rows without gradients are the same
        torch.testing.assert_close(task.outputs(student, prepared).logits, outputs.logits)
    # The first translation by hand: the teacher's tokens are the most likely of its own search.
    i = int(lengths.argmax())
    tokens = prepared["hypothesis"][i, : lengths[i]]
    source = {name: batch[name][i : i + 1] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        single = teacher(**source, decoder_input_ids=torch.cat([torch.tensor([1]), tokens[:-1]])[None])[0]
    torch.testing.assert_close(forced.logits[(forced.row_to_sample == i) & is_hypothesis], single)
    # What a cache stores gives both queries again.
    for queried, expected in ((batch, seen["teacher"]), (teacher_batch, forced)):
        stored = task.encode_outputs(seen["teacher"], batch)
        stored = {name: value.masked_fill(value == -100, 0) for name, value in stored.items()}  # padding is not stored
        decoded = task.decode_outputs(stored, queried)
        torch.testing.assert_close(decoded.logits, expected.logits)
        torch.testing.assert_close(decoded.by_sample["hypothesis_length"], lengths)
    # A cache that is filled with translations in the batch, as in a dry run.
    stored = task.encode_outputs(forced, teacher_batch)
    torch.testing.assert_close(task.decode_outputs(stored, teacher_batch).logits, forced.logits)
    changed = {**teacher_batch, "hypothesis": teacher_batch["hypothesis"].flip(0)}
    with pytest.raises(LimbeckError, match="logits of its own translations only"):
        task.decode_outputs(task.encode_outputs(seen["teacher"], batch), changed)


def test_teachers_for_some_language_pairs_skip_the_others(data):
    task, batch = make_translation(data, hypothesis_beams=2), training_batch(data)
    teachers = {pair: make_network(data, pairs=(f"{pair}-en",), seed=i) for i, pair in enumerate(("de", "fr"), 5)}
    student = make_network(data)
    is_german = batch["pair"][:, 0] == 0
    with torch.no_grad():
        outputs = task.outputs(teachers["de"], batch)
        single = task.outputs(teachers["de"], {name: value[is_german] for name, value in batch.items()})
    assert outputs.valid.tolist() == is_german.tolist()
    torch.testing.assert_close(outputs.masked_select(outputs.valid).logits, single.logits)
    none = {name: value[~is_german] for name, value in batch.items()}
    with torch.no_grad():
        assert not task.outputs(teachers["de"], none).valid.any()

    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=1.0)}
    distiller = limbeck.Distiller(student, teachers, objective=objective, task=task).train()
    loss = distiller(batch)
    loss.total.backward()
    assert student.embedding.weight.grad.abs().sum() > 0
    context = distiller.forward_context(batch)
    assert context.teacher.valid.all()
    log_q, log_p = (x.log_softmax(1) for x in (context.student.logits, context.teacher.logits))
    expected = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    assert float(loss.by_loss["kd"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    both = {name: make_network(data, seed=i) for i, name in enumerate("ab")}
    with pytest.raises(LimbeckError, match="each sample must be translated by one teacher, got a and b"):
        limbeck.Distiller(student, both, objective=objective, task=task).train()(batch)
    # Such a network trains on its own pairs only.
    prepared, _ = task.prepare_batch(teachers["fr"], batch, lambda _: {})
    assert prepared["pair"][:, 0].tolist() == [1] * int((~is_german).sum())


def test_translations_do_not_depend_on_the_batch_or_its_order(data):
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    task, network = make_translation(data), make_network(data)
    batch = next(data.validation_batches(batch_size=24))
    many = {name: value.repeat(8, *[1] * (value.ndim - 1)) for name, value in batch.items()}  # above one search
    with torch.no_grad():
        texts, repeated = task.score(network, batch).predictions, task.score(network, many).predictions
    assert repeated == texts * 8


def test_examples_mark_the_words_that_differ(data):
    task = make_translation(data)
    batch = next(data.validation_batches(batch_size=2))
    reference = batch["reference"][0, : batch["reference_length"][0]].numpy().tobytes().decode()
    scores = {"student": limbeck.core.task.Scores(torch.zeros(2, 1), [reference, "a dog"])}
    first, second = task.examples(batch, scores, {"class_names": data.class_names})
    assert (first.predictions["student"].text, first.predictions["student"].correct) == (reference, True)
    assert first.input.text.startswith("de-en: ")
    assert second.predictions["student"].correct is False
    assert mark_differences("the dog", "the big dog") == "the [∅] dog"


def test_reference_texts_are_those_of_the_files(data):
    task = make_translation(data)
    batch = next(data.validation_batches(batch_size=12))
    assert task._references(batch)[0].startswith("a ")
    del batch["reference"]
    assert task._references(batch)[0].startswith("a ")  # of the tokens, where numbers are unknown


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target": torch.zeros(8)}, "target .or labels., .batch, tokens. integers"), ({"attention_mask": None}, "got"),
     ({"target": torch.full((8, 2), 99)}, r"target tokens must be in 0\.\.")],
)  # fmt: skip
def test_wrong_batches_are_refused(data, change, message):
    batch = {name: value for name, value in {**training_batch(data), **change}.items() if value is not None}
    with pytest.raises(LimbeckError, match=message):
        make_translation(data).target(batch)


def test_wrong_networks_and_settings_are_refused(data):
    task, batch = make_translation(data), training_batch(data)
    small = seq2seq_transformer(width=8, num_heads=2, depth=1, vocab_size=data.facts["vocab_size"] - 1)
    few = {**batch, "input_ids": batch["input_ids"].clamp(max=3), "target": batch["target"].clamp(max=3)}
    with pytest.raises(
        LimbeckError, match=r"logits of Seq2SeqTransformer must be \[8, \d+, \d+\], got \[8, \d+, \d+\]; set"
    ):
        task.outputs(small, few)
    with pytest.raises(LimbeckError, match="needs batches with 'pair'"):
        task.outputs(make_network(data, pairs=("de-en",)), {n: v for n, v in batch.items() if n != "pair"})
    for settings in ({"num_beams": 0}, {"primary": "ter"}, {"eos_token_id": 99}):
        with pytest.raises(LimbeckError, match=r"must be"):
            Translation(**{"vocab_size": 9, **settings})
    with pytest.raises(
        LimbeckError, match="max_tokens of the task must be at most that of Seq2SeqTransformer, 9, got 12"
    ):
        task.check_data(make_network(data, max_tokens=9), data)


def test_a_larger_output_than_the_vocabulary_is_cut(data):
    task, batch = make_translation(data), training_batch(data)
    wide = seq2seq_transformer(width=8, num_heads=2, depth=1, vocab_size=data.facts["vocab_size"] + 6).eval()
    outputs = task.outputs(wide, batch)
    assert isinstance(outputs, Outputs)
    assert outputs.logits.shape[1] == data.facts["vocab_size"]


class Wider(nn.Module):
    """A network with more tokens than the data, of which the last is the most likely."""

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        logits = torch.zeros(*decoder_input_ids.shape, 12)
        logits[..., 11], logits[..., 4] = 9.0, 5.0
        return logits


def test_tokens_beyond_the_vocabulary_are_never_translated():
    batch = {
        "input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2, dtype=torch.long),
        "target": torch.tensor([[4, 0]]), "view": torch.zeros(1, dtype=torch.long),
    }  # fmt: skip
    task = Translation(10, num_beams=2, hypothesis_beams=2, max_tokens=3)
    with torch.no_grad():
        assert task.outputs(Wider(), batch).by_sample["hypothesis"].tolist() == [[4, 4, 4]]
    network = Wider()
    network.translate = lambda *args, **options: Translations(torch.tensor([[11]]), torch.tensor([1]), torch.zeros(1))
    with pytest.raises(LimbeckError, match="translate of Wider must return tokens below 10, got 11"), torch.no_grad():
        task.outputs(network, batch)
