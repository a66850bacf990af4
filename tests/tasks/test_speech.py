"""Speech: rows are frames of a common grid, metrics count errors by sample, and padding changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.data.test_speech_folder import write_folder
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.task import DeployableTask
from limbeck.data import Split
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources import SpeechFolder
from limbeck.losses import CTCLoss, KDLoss
from limbeck.models import conv_ctc
from limbeck.tasks import SpeechCTC
from limbeck.tasks.speech.metrics import CTC, WER, decode_greedy, edit_distances
from limbeck.testing import check_task
from limbeck.utils.spectrogram import draw_labels

TASK = SpeechCTC(classes=5, frame_stride=2)
LENGTHS = torch.tensor([11, 6, 9])


def make_batch(seed=0, frames=11):
    generator = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(3, frames, 8, generator=generator),
        "input_length": LENGTHS,
        "target": torch.tensor([[1, 2, 3], [4, 0, 0], [2, 2, 0]]),
        "target_length": torch.tensor([3, 1, 2]),
        "sample_id": torch.tensor([5, 6, 7]),
    }


class Fixed(nn.Module):
    """Returns logits of its own."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, frames, lengths):
        return self.logits


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("stride", "grid"), [(1, 2), (1, 4), (2, 1), (3, 2), (2, 3), (4, 1), (2, 2)])
def test_rows_are_frames_on_the_grid(stride, grid):
    """A row of a coarser grid is its frame with the least blank, of a finer one the frame in which it begins."""
    logits = torch.randn(3, -(-11 // stride), 5, generator=torch.Generator().manual_seed(1))
    outputs = SpeechCTC(classes=5, frame_stride=grid).outputs(Fixed(logits), make_batch())
    by_frame = softmax(logits.double().numpy())
    rows, owners = [], []
    for sample, length in enumerate(LENGTHS.tolist()):
        for start in range(0, length, grid):
            begins = [t // stride for t in range(start, min(start + grid, length)) if t % stride == 0]
            if grid < stride or not begins:
                begins = [start // stride]
            rows.append(min((by_frame[sample, frame] for frame in begins), key=lambda p: p[0]))
            owners.append(sample)
    np.testing.assert_allclose(softmax(outputs.logits.double().numpy()), rows, atol=1e-6)
    assert outputs.row_to_sample.tolist() == owners
    assert outputs.by_sample["frame_length"].tolist() == [-(-n // stride) for n in LENGTHS.tolist()]


def test_a_coarser_grid_keeps_the_tokens_of_a_sharp_network():
    """Tokens in single frames are decoded from the rows, where a mean over two frames would be decoded as blank."""
    path = torch.tensor([[0, 3, 0, 0, 1, 0, 0, 0], [2, 0, 0, 4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]])
    logits = 2 * torch.nn.functional.one_hot(path, 5).float()
    batch = {**make_batch(frames=8), "input_length": torch.tensor([8, 8, 8])}
    rows = SpeechCTC(classes=5, frame_stride=2).outputs(Fixed(logits), batch).logits.reshape(3, 4, 5)
    assert decode_greedy(rows, torch.tensor([4, 4, 4]), blank=0) == [[3, 1], [2, 4], [1]]


def test_student_and_teacher_of_unlike_rates_have_the_same_rows():
    student, teacher = conv_ctc(classes=5, mels=8, stride=4, width=8), conv_ctc(classes=5, mels=8, stride=1, width=8)
    objective = {"target": CTCLoss(), "kd": KDLoss(temperature=2.0)}
    loss = limbeck.Distiller(student, teacher, objective=objective, task=TASK)(make_batch())
    loss.total.backward()
    assert loss.total.isfinite()
    assert student.classifier.weight.grad.abs().sum() > 0


def test_padding_changes_nothing():
    network = conv_ctc(classes=5, mels=8, stride=2, width=8).eval()
    batch = make_batch()
    padded = {**batch, "input": torch.cat([batch["input"], torch.full((3, 4, 8), 9.0)], dim=1)}
    single = {name: value[1:2] for name, value in batch.items()} | {"input": batch["input"][1:2, :6]}
    whole, longer, one = (TASK.outputs(network, item) for item in (batch, padded, single))
    torch.testing.assert_close(whole.logits, longer.logits)
    torch.testing.assert_close(whole.logits[whole.row_to_sample == 1], one.logits)


def test_errors_are_those_of_levenshtein():
    def distance(a, b):  # Wagner and Fischer, 1974
        table = np.arange(len(b) + 1)
        for i, x in enumerate(a, 1):
            previous, table[0] = table.copy(), i
            for j, y in enumerate(b, 1):
                table[j] = min(previous[j] + 1, table[j - 1] + 1, previous[j - 1] + (x != y))
        return table[-1]

    rng = np.random.default_rng(0)
    pairs = [[rng.integers(0, 4, size=rng.integers(0, 7)).tolist() for _ in range(2)] for _ in range(40)]
    expected = [distance(a, b) for a, b in pairs]
    assert edit_distances([a for a, _ in pairs], [b for _, b in pairs]).tolist() == expected


def test_decoding_merges_repeats_and_removes_blanks():
    path = torch.tensor([0, 1, 1, 0, 1, 2, 2, 0, 3])
    assert decode_greedy(torch.eye(4)[None, path], torch.tensor([8]), blank=0) == [[1, 1, 2]]
    assert decode_greedy(torch.eye(4)[None, path], torch.tensor([1]), blank=0) == [[]]


def test_statistics_give_the_error_rate_of_any_samples():
    logits = torch.full((3, 11, 5), -9.0)
    for sample, path in enumerate(([1, 0, 2, 2, 3, 0, 0, 0, 0, 0, 0], [1] * 11, [2, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0])):
        logits[sample, torch.arange(11), torch.tensor(path)] = 9.0
    scores = TASK.score(Fixed(logits), make_batch())
    assert scores.predictions == [[1, 2, 3], [1], [2, 2, 4]]
    assert scores.statistics.tolist() == [[0.0, 3.0], [1.0, 1.0], [1.0, 2.0]]
    assert float(TASK.metric_value(scores.statistics)) == pytest.approx(2 / 6)
    weights = torch.tensor([[0, 0, 3], [2, 1, 0]])
    assert TASK.metric_value(scores.statistics, weights).tolist() == pytest.approx([3 / 6, 1 / 7])
    metrics = TASK.metrics()
    metrics.update(*scores.metric_args)
    assert metrics.compute() == {"per": pytest.approx(2 / 6), "sequence_accuracy": pytest.approx(1 / 3)}
    monitored = TASK.monitor(Fixed(logits), make_batch())
    expected = float(limbeck.losses.ctc_loss(logits, LENGTHS, make_batch()["target"], torch.tensor([3, 1, 2])))
    assert float(TASK.metric_value(monitored, metric=CTC)) == pytest.approx(expected, rel=1e-6)
    assert float(TASK.metric_value(monitored)) == pytest.approx(2 / 6)


def test_samples_without_a_target_are_left_out():
    batch = make_batch() | {"target_length": torch.tensor([3, -1, 2])}
    scores = TASK.score(Fixed(torch.randn(3, 11, 5)), batch)
    assert scores.statistics.isnan().any(dim=1).tolist() == [False, True, False]
    assert len(scores.metric_args[0]) == 2
    assert TASK.monitor(Fixed(torch.randn(3, 11, 5)), batch).isnan().any(dim=1).tolist() == [False, True, False]
    unlabeled = {name: value for name, value in batch.items() if not name.startswith("target")}
    assert TASK.score(Fixed(torch.randn(3, 11, 5)), unlabeled).statistics.isnan().all()


@pytest.mark.parametrize(("teacher_stride", "batch_frames"), [(1, 11), (2, 14), (4, 11)])
def test_cached_outputs_have_the_rows_of_the_network(teacher_stride, batch_frames):
    network = conv_ctc(classes=5, mels=8, stride=teacher_stride, width=8).eval()
    batch = make_batch(frames=batch_frames)
    outputs = TASK.outputs(network, batch)
    stored = {name: tensor.detach() for name, tensor in TASK.encode_outputs(outputs, batch).items()}
    shorter = {name: value[1:2] for name, value in batch.items()} | {"input": batch["input"][1:2, :6]}
    decoded = TASK.decode_outputs({name: tensor[1:2] for name, tensor in stored.items()}, shorter)
    torch.testing.assert_close(decoded.logits, outputs.logits[outputs.row_to_sample == 1])
    assert decoded.row_to_sample.tolist() == [0, 0, 0]


def test_examples_show_spectrogram_target_and_tokens():
    batch, names = make_batch(), ["-", "AH", "B", "K", "D"]
    scores = TASK.score(Fixed(torch.eye(5)[torch.zeros(3, 11, dtype=torch.long)]), batch)
    examples = TASK.examples(batch, {"student": scores}, {"class_names": names})
    assert [example.target.text for example in examples] == ["AH B K", "D", "B B"]
    assert examples[0].predictions["student"] == ("(empty)", b"", False)
    assert examples[0].input.image.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target": torch.tensor([[1, 9, 3]] * 3)}, r"0\.\.4, got 1 to 9"),
     ({"target": torch.tensor([[1, 0, 3]] * 3)}, "tokens must not be the blank, 0")],
)  # fmt: skip
def test_wrong_tokens_are_refused(change, message):
    with pytest.raises(LimbeckError, match=message):
        TASK.sample_targets(make_batch() | change)


def test_a_network_of_other_frames_is_refused():
    with pytest.raises(LimbeckError, match="one frame for every n input frames"):
        TASK.outputs(Fixed(torch.zeros(3, 7, 5)), make_batch())
    with pytest.raises(LimbeckError, match=r"must be \[3, frames, 5\], got \[3, 11, 4\]"):
        TASK.outputs(Fixed(torch.zeros(3, 11, 4)), make_batch())
    with pytest.raises(LimbeckError, match="blank one of the classes"):
        SpeechCTC(classes=3, blank=3)
    assert isinstance(TASK, DeployableTask)


def test_a_target_too_long_for_the_stride_is_refused_before_training():
    frames = [torch.randn(n, 8) for n in (24, 12, 24, 24, 24, 24)]
    # 12 frames are 3 of stride 4; [1, 1, 2] needs 4: a blank is between the equal tokens.
    tokens = [torch.tensor([1, 2]) for _ in frames]
    tokens[1] = torch.tensor([1, 1, 2])
    split = Split.from_sequences(SequenceStore({"input": frames, "target": tokens}), torch.zeros(6, dtype=torch.long))
    train, held_out = split.subset(torch.tensor([0, 1, 2, 3])), split.subset(torch.tensor([4, 5]))
    data = make_splits("clips", "abcde", train, seed=0, validation=held_out, test=held_out)
    student = conv_ctc(classes=5, mels=8, stride=4, width=8)
    distiller = limbeck.Distiller(student, objective={"target": CTCLoss()}, task=TASK)
    sentence = r"sample 1 of the training split has 3 frames of \w+ \(stride 4\) and a target of 3 tokens that needs 4"
    with pytest.raises(LimbeckError, match=sentence):
        limbeck.fit(distiller, data, steps=1, callbacks=[])
    for network in (conv_ctc(classes=5, mels=8, stride=2, width=8), student):
        kept = data if network is not student else replace(data, train=train.subset(torch.tensor([0, 2, 3])))
        TASK.check_data(network, kept)


NAMES = ("-", " ", "a", "b", "c")


def encode(texts):
    rows = [torch.tensor([NAMES.index(char) for char in text], dtype=torch.long) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def distance(first, second):
    """Levenshtein's by its recursion, of lists of anything."""
    if not first or not second:
        return len(first) + len(second)
    if first[-1] == second[-1]:
        return distance(first[:-1], second[:-1])
    return 1 + min(distance(first[:-1], second), distance(first, second[:-1]), distance(first[:-1], second[:-1]))


def test_errors_of_characters_and_words():
    transcripts, texts = ["ab c", "a", "b c a"], ["ab b", "", " b  a "]
    task = SpeechCTC(classes=5, word_separator=1)
    target, lengths = encode(transcripts)
    frames = torch.zeros(3, 24, 5)
    for row, text in enumerate(texts):
        path = [0] * 24
        path[: 2 * len(text) : 2] = [NAMES.index(char) for char in text]
        frames[row] = 9.0 * nn.functional.one_hot(torch.tensor(path), 5)
    batch = {
        "input": torch.zeros(3, 24, 8), "input_length": torch.full((3,), 24), "target": target,
        "target_length": lengths, "sample_id": torch.arange(3),
    }  # fmt: skip
    scores = task.score(Fixed(frames), batch)
    assert scores.predictions == [[NAMES.index(char) for char in text] for text in texts]
    pairs = list(zip(transcripts, texts, strict=True))
    cer = sum(distance(list(a), list(b)) for a, b in pairs) / sum(map(len, transcripts))
    wer = sum(distance(a.split(), b.split()) for a, b in pairs) / sum(len(a.split()) for a in transcripts)
    assert float(task.metric_value(scores.statistics)) == pytest.approx(cer)
    assert float(task.metric_value(scores.statistics, metric=WER)) == pytest.approx(wer)
    by_word = replace(task, primary="wer")
    assert float(by_word.metric_value(scores.statistics)) == pytest.approx(wer)
    metrics = task.metrics()
    metrics.update(*scores.metric_args)
    assert metrics.compute() == pytest.approx({"cer": cer, "wer": wer, "sequence_accuracy": 0.0})
    monitored = task.monitor(Fixed(frames), batch)
    assert float(task.metric_value(monitored, metric=WER)) == pytest.approx(wer)
    assert float(task.metric_value(monitored, metric=CTC)) == pytest.approx(float(monitored[:, 4].mean()))
    assert [spec.name for spec in by_word.monitored_metrics] == ["wer", "cer", "ctc_loss"]
    assert [spec.name for spec in task.metric_specs] == ["cer", "wer", "sequence_accuracy"]
    example = task.examples(batch, {"student": scores}, {"class_names": NAMES})[0]
    assert (example.target.text, example.predictions["student"].text) == ("ab c", "ab b")


def test_the_contract_of_tasks_holds_for_words(tmp_path):
    data = SpeechFolder(root=str(write_folder(tmp_path / "speech")), mels=8).load(seed=0)
    task = SpeechCTC(classes=len(data.class_names), word_separator=data.facts["word_separator"])

    def oracle(batch):
        tokens = batch["target"].clamp(min=0)
        frames = torch.zeros(len(tokens), batch["input"].shape[1], len(data.class_names))
        frames[..., 0] = 4.0
        for position in range(tokens.shape[1]):
            has_token = position < batch["target_length"]
            frames[has_token, 2 * position, tokens[has_token, position]] = 9.0
        return frames

    networks = [conv_ctc(classes=len(data.class_names), mels=8, width=width, stride=1) for width in (8, 12)]
    check_task(task, data, networks[0], teacher=networks[1], oracle=oracle)


def test_a_beam_finds_a_sequence_more_probable_than_the_best_path():
    """Two frames of p(blank) = 0.6: the best path is empty with 0.36, and "a" has 0.64."""
    logits = torch.tensor([0.6, 0.4, 1e-9]).log().expand(1, 2, 3)
    batch = {
        "input": torch.zeros(1, 2, 8), "input_length": torch.tensor([2]), "target": torch.tensor([[1]]),
        "target_length": torch.tensor([1]),
    }  # fmt: skip
    for num_beams, expected in ((1, []), (2, [1])):
        task = SpeechCTC(classes=3, frame_stride=1, num_beams=num_beams)
        assert task.score(Fixed(logits), batch).predictions == [expected]
    assert float(task.monitor(Fixed(logits), batch)[0, 0]) == 1.0  # by the best path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"primary": "wer"}, "primary must be per for data without words, got 'wer'"),
        ({"primary": "per", "word_separator": 1}, "primary must be cer or wer for data with words, got 'per'"),
        ({"num_beams": 0}, "num_beams must be from 1"),
    ],
)
def test_metrics_that_the_data_cannot_give_are_refused(settings, message):
    with pytest.raises(LimbeckError, match=message):
        SpeechCTC(classes=3, **settings)


def test_tokens_are_shown_at_the_frames_where_they_begin():
    """Of a network with frames of two input frames, over a clip of 12 of the 16 in the batch."""
    path = torch.tensor([[0, 3, 3, 0, 3, 1, 0, 2]])
    batch = {
        "input": torch.randn(1, 16, 8), "input_length": torch.tensor([12]), "target": torch.tensor([[3, 3, 1]]),
        "target_length": torch.tensor([3]), "sample_id": torch.tensor([0]),
    }  # fmt: skip
    network = Fixed(9.0 * nn.functional.one_hot(path, 5))
    scores = {"best path": TASK.score(network, batch), "beam": replace(TASK, num_beams=4).score(network, batch)}
    decoded, beam = (score.predictions[0] for score in scores.values())
    assert (decoded, decoded.frames) == ([3, 3, 1], [2, 8, 10])
    assert (beam, beam.frames) == ([3, 3, 1], [])
    predictions = TASK.examples(batch, scores, {"class_names": ("-", "a", "b", "ʃ", " ")})[0].predictions
    assert predictions["best path"].image.startswith(b"\x89PNG")
    assert not predictions["beam"].image
    assert [panel.correct for panel in predictions.values()] == [True, True]


def test_labels_are_below_their_position_and_do_not_overlap():
    drawn = draw_labels(torch.ones(1, 20, 1000), [0.5, 0.505, 0.51, 0.515, 0.999], ["mm", "n", "o", "p", "end"])
    below = drawn[0, 24:]
    lines = [(below[14 * line : 14 * (line + 1)] < 0.5).any(dim=0).nonzero()[:, 0] for line in range(3)]
    assert drawn.shape == (1, 64, 640)
    assert [int(line.min()) for line in lines] == pytest.approx([320, 323, 326], abs=3)
    assert int(lines[0].max()) <= 639
    assert int((drawn[0, 21] < 0.5).sum()) == 5  # ticks
