"""Cached outputs are computed once, only used for their inputs, and equal while filling and reading."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, Digits, affine, default_augmentation, from_loaders, from_tensors
from limbeck.losses import AttentionTransferLoss, CrossEntropyLoss, KDLoss
from limbeck.teachers import CacheConfig, CachedTeacher, FrozenTeacher, Teacher, from_callable
from limbeck.training import TrainingConfig

TASK = limbeck.tasks.Classification(10)
FULL = CacheConfig(dtype="float32")


def network(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, 10),
    )  # fmt: skip


def digits(num_views=4, seed=0, **more):
    return Digits(num_samples=96, augment=Augmentation((affine(**more),), num_views=num_views)).load(seed=seed)


def train(teacher, data, *, epochs=4, batch=32):
    student = network(1)
    distiller = limbeck.Distiller(
        student, {"big": teacher}, objective={"truth": CrossEntropyLoss(), "soft": KDLoss()}, task=TASK
    )
    training = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.1), batch_size=batch)
    run = limbeck.fit(distiller, data, epochs=epochs, training=training, callbacks=[])
    return [row["loss"] for row in run.history], torch.cat([p.detach().flatten() for p in student.parameters()])


CHECKED = 4
"""Batches of at most so many images are those of the checks at the opening of a cache."""


class Counting(Teacher):
    """A teacher that counts the images it was run on, without those of checks."""

    def __init__(self, network):
        self._inner, self.num_images = FrozenTeacher(network), 0

    def fingerprint(self):
        return self._inner.fingerprint()

    def predict(self, batch, task):
        self.num_images += len(batch["sample_id"]) if len(batch["sample_id"]) > CHECKED else 0
        return self._inner.predict(batch, task)


def test_a_cached_run_is_the_online_run_bit_for_bit(tmp_path):
    data, teacher = digits(num_views=4), network(2)
    online, weights = train(teacher, data)
    for turn in ("filling", "reading"):
        losses, student_weights = train(CachedTeacher(teacher, data, root=tmp_path, config=FULL), data)
        assert losses == online, turn
        assert torch.equal(student_weights, weights), turn


def test_mixed_and_repeated_images_give_the_same_run_online_and_cached(tmp_path):
    views = default_augmentation(crop=1, jitter=0.4, mixup=0.5, num_views=4, repeats=2)
    data, teacher = Digits(num_samples=96, augment=views).load(seed=0), Counting(network(2))
    online, weights = train(teacher, data)
    for num_computed in (96 * 4, 0):
        teacher.num_images = 0
        losses, student_weights = train(CachedTeacher(teacher, data, root=tmp_path, config=FULL), data)
        assert losses == online
        assert torch.equal(student_weights, weights)
        assert teacher.num_images == num_computed


def test_a_cache_filled_by_other_batches_gives_the_online_run_to_1e_5(tmp_path):
    data, teacher = digits(num_views=4), network(2)
    online, _ = train(teacher, data)
    cached = CachedTeacher(teacher, data, root=tmp_path, config=FULL)
    for _ in cached.populate(TASK, batch_size=17):
        pass
    num_computed = cached.misses
    losses, _ = train(cached, data)
    assert cached.misses == num_computed == 96 * 4
    assert np.allclose(losses, online, rtol=0, atol=1e-5)


def test_teacher_outputs_are_computed_once(tmp_path):
    data, teacher = digits(num_views=2), Counting(network(2))
    train(CachedTeacher(teacher, data, root=tmp_path), data, epochs=6)
    assert teacher.num_images == 96 * 2
    train(CachedTeacher(teacher, data, root=tmp_path), data, epochs=3)
    assert teacher.num_images == 96 * 2


def test_probabilities_of_a_callable_are_computed_once_for_each_version(tmp_path):
    data, calls, inner = digits(num_views=1), [], network(2)

    def ask(images):
        calls.append(len(images) if len(images) > CHECKED else 0)
        return inner.eval()(images).softmax(1)

    for version, num_computed in (("1", 96), ("1", 96), ("2", 192)):
        train(
            CachedTeacher(from_callable(ask, output_type="probabilities", version=version), data, root=tmp_path),
            data,
            epochs=2,
        )
        assert sum(calls) == num_computed


def test_views_are_used_in_turn(tmp_path):
    stream = digits(num_views=3).batches(batch_size=96)
    assert [stream.batch(step)["view"].unique().tolist() for step in range(5)] == [[0], [1], [2], [0], [1]]


def test_without_views_one_output_is_used_in_every_epoch(tmp_path):
    data = Digits(num_samples=96).load(seed=0)
    teacher = Counting(network(2))
    train(CachedTeacher(teacher, data, root=tmp_path), data, epochs=5)
    assert teacher.num_images == 96


def test_fresh_views_are_refused(tmp_path):
    with pytest.raises(limbeck.LimbeckError, match=r"augment\.num_views: 8"):
        CachedTeacher(network(), digits(num_views=0), root=tmp_path)


def one_key(teacher, data, root, **more):
    cached = CachedTeacher(teacher, data, root=root, **more)
    cached.predict(data.batches(batch_size=8).batch(0), TASK)
    return cached.stats()["key"]


def test_anything_that_changes_outputs_changes_the_key(tmp_path):
    data, teacher = digits(), network(2)
    first = one_key(teacher, data, tmp_path)
    assert one_key(network(2), digits(), tmp_path) == first
    other = network(2)
    other[1].running_mean[0] += 1e-3
    changed = {
        "weights": one_key(network(3), data, tmp_path),
        "a buffer": one_key(other, data, tmp_path),
        "a layer": one_key(nn.Sequential(*network(2), nn.Dropout(0.1)), data, tmp_path),
        "views": one_key(teacher, digits(degrees=5.0), tmp_path),
        "how many views": one_key(teacher, digits(num_views=5), tmp_path),
        "seed": one_key(teacher, digits(seed=1), tmp_path),
        "format": one_key(teacher, data, tmp_path, config=CacheConfig(top_k=3)),
        "tail": one_key(teacher, data, tmp_path, config=CacheConfig(top_k=3, tail="renormalized")),
        "taps": one_key(FrozenTeacher(teacher, {"mid": "0"}), data, tmp_path),
    }
    assert len({first, *changed.values()}) == 1 + len(changed)


def test_outputs_for_other_inputs_under_the_same_ids_are_computed_again(tmp_path):
    inputs = torch.rand(64, 1, 8, 8)
    data = from_tensors(inputs, torch.arange(64) % 10, normalize="none")
    messages, teacher = [], Counting(network(2))
    cached = CachedTeacher(teacher, data, root=tmp_path, log=messages.append, config=FULL)
    batch = data.batches(batch_size=16).batch(0)
    cached.predict(batch, TASK)
    changed = {**batch, "input": batch["input"].flip(3)}
    outputs = cached.predict(changed, TASK)
    assert teacher.num_images == 32
    assert torch.equal(outputs.require_logits(), teacher.predict(changed, TASK).require_logits())
    assert "for other inputs" in messages[0]


def test_a_flipped_byte_is_detected_repaired_and_logged(tmp_path):
    data, teacher, messages = digits(num_views=2), network(2), []
    cached = CachedTeacher(teacher, data, root=tmp_path, log=messages.append, config=FULL)
    first, _ = train(cached, data, epochs=2)
    folder = Path(cached.stats()["folder"])
    assert cached.stats()["is_complete"]
    assert (folder / "index.json").exists()
    shard = folder / "shard-00000.bin"
    before = shard.read_bytes()
    raw = bytearray(before)
    raw[len(raw) // 2 + 7] ^= 0x10
    shard.write_bytes(raw)

    again = CachedTeacher(teacher, data, root=tmp_path, log=messages.append, config=FULL)
    losses, _ = train(again, data, epochs=2)
    assert losses == pytest.approx(first, abs=1e-5)
    assert "shard-00000.bin is damaged: 1 outputs are computed again" in messages[0]
    assert again.repaired == again.misses == 1
    assert json.loads((folder / "index.json").read_text())["shards"]
    third = CachedTeacher(teacher, data, root=tmp_path, log=messages.append, config=FULL)
    train(third, data, epochs=2)
    assert (third.misses, len(messages)) == (0, 1)


def test_a_truncated_shard_is_repaired(tmp_path):
    data, messages = digits(num_views=2), []
    cached = CachedTeacher(network(2), data, root=tmp_path, log=messages.append)
    for _ in cached.populate(TASK):
        pass
    shard = Path(cached.stats()["folder"]) / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:1000])
    again = CachedTeacher(network(2), data, root=tmp_path, log=messages.append)
    train(again, data, epochs=2)
    assert again.repaired == again.misses > 100
    assert "damaged" in messages[1]


def test_outputs_do_not_depend_on_the_precision_of_the_run(tmp_path):
    data, teacher = digits(num_views=1), network(2)
    batch, cached = data.batches(batch_size=16).batch(0), CachedTeacher(teacher, data, root=tmp_path, config=FULL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = cached.predict(batch, TASK)
    assert torch.equal(outputs.require_logits(), FrozenTeacher(teacher).predict(batch, TASK).require_logits())


def test_features_are_cached_with_the_logits(tmp_path):
    data, teacher = digits(num_views=2), network(2)
    cached = CachedTeacher(teacher, data, root=tmp_path, config=CacheConfig(dtype="float32", feature_dtype="float32"))
    distiller = limbeck.Distiller(
        network(1),
        {"big": cached},
        objective={"soft": KDLoss(), "attention": AttentionTransferLoss("mid")},
        feature_layers={"student": {"mid": "2"}, "big": {"mid": "2"}},
        task=TASK,
    )
    batch = data.batches(batch_size=16).batch(0)
    for _ in range(2):
        outputs = distiller.forward_context(batch).teachers["big"]
        expected = FrozenTeacher(teacher, {"mid": "2"}).predict(batch, TASK)
        assert torch.equal(outputs.feature("mid"), expected.feature("mid"))
        assert torch.equal(outputs.require_logits(), expected.require_logits())
    distiller(batch).total.backward()


def test_the_student_learns_from_what_was_read_and_the_teacher_gets_no_gradient(tmp_path):
    data, teacher = digits(num_views=1), network(2)
    cached = CachedTeacher(teacher, data, root=tmp_path)
    student = network(1)
    distiller = limbeck.Distiller(student, cached, objective={"soft": KDLoss()}, task=TASK)
    distiller(data.batches(batch_size=16).batch(0)).total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any("teacher" in name for name in distiller.state_dict())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda batch: batch["input"], "needs batches with 'sample_id'"),
        (lambda batch: {**batch, "sample_id": batch["sample_id"] + 10_000}, "sample 1.* is not in the cache"),
        (lambda batch: {**batch, "view": batch["view"] + 4}, "view 4 is not in the cache"),
    ],
)
def test_batches_that_do_not_say_what_they_hold_are_refused(tmp_path, wrong, says):
    data = digits(num_views=4)
    with pytest.raises(limbeck.LimbeckError, match=says):
        CachedTeacher(network(), data, root=tmp_path).predict(wrong(data.batches(batch_size=8).batch(0)), TASK)


def test_loaders_without_a_fingerprint_are_refused(tmp_path):
    loader = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(limbeck.LimbeckError, match="numbered views, got a LoaderDataModule"):
        CachedTeacher(network(), from_loaders(loader), root=tmp_path)


def test_a_teacher_without_a_fingerprint_is_refused(tmp_path):
    class Nameless(Teacher):
        def predict(self, batch, task):
            raise AssertionError

    with pytest.raises(limbeck.LimbeckError, match=r"define fingerprint\(\)"):
        CachedTeacher(Nameless(), digits(), root=tmp_path)


FILLER = """
import sys, time, torch
from torch import nn
sys.path.insert(0, sys.argv[2])
from test_cached_teacher import TASK, Counting, digits, network, FULL
from limbeck.teachers import CachedTeacher
class Slow(Counting):
    def predict(self, batch, task):
        time.sleep(float(sys.argv[3]))
        return super().predict(batch, task)
cached = CachedTeacher(Slow(network(2)), digits(num_views=4), root=sys.argv[1], config=FULL)
for done, _ in cached.populate(TASK, batch_size=8, rank=int(sys.argv[4]), world_size=int(sys.argv[5])):
    print(done, flush=True)
print("misses", cached.misses)
"""


@pytest.fixture
def filler(fork_python):
    def start(root, *, pause=0.0, rank=0, world=1):
        return fork_python("-c", FILLER, root, Path(__file__).parent, pause, rank, world)

    return start


def test_filling_goes_on_after_a_kill(tmp_path, filler):
    process = filler(tmp_path, pause=0.03)
    while process.read_output()[0].count("\n") < 6 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.read_output()
    data, messages = digits(num_views=4), []
    cached = CachedTeacher(network(2), data, root=tmp_path, config=FULL, log=messages.append)
    for _ in cached.populate(TASK, batch_size=8):
        pass
    assert 0 < cached.misses <= 96 * 4 - 40, "outputs written before the kill were computed again"
    assert cached.stats()["is_complete"]
    online, _ = train(network(2), data)
    assert np.allclose(train(cached, data)[0], online, rtol=0, atol=1e-5)


def test_two_processes_fill_one_cache_together(tmp_path, filler):
    processes = [filler(tmp_path, pause=0.005, rank=rank, world=2) for rank in (0, 1)]
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    num_computed = [int(out.split("misses")[1]) for out, _ in printed]
    assert sum(num_computed) == 96 * 4
    cached = CachedTeacher(network(2), digits(num_views=4), root=tmp_path, config=FULL)
    for _ in cached.populate(TASK):
        pass
    assert cached.misses == 0
    assert cached.stats()["is_complete"]
    assert not list(tmp_path.rglob("*.partial"))


def test_two_processes_without_shares_do_not_harm_each_other(tmp_path, filler):
    processes = [filler(tmp_path, pause=0.005) for _ in (0, 1)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "damaged" not in errors
    cached = CachedTeacher(network(2), digits(num_views=4), root=tmp_path, config=FULL)
    for _ in cached.populate(TASK):
        pass
    assert cached.misses == 0


class Scaled(nn.Module):
    """A network whose outputs depend on a file, which is no part of its identity."""

    def __init__(self, path):
        super().__init__()
        self.net, self.path = network(2), path

    def forward(self, x):
        return self.net(x) * float(self.path.read_text())


@pytest.mark.parametrize("config", [FULL, CacheConfig(), CacheConfig(top_k=3)])
def test_stored_outputs_that_are_not_the_teachers_are_an_error(tmp_path, config):
    data, path = digits(num_views=2), tmp_path / "scale.txt"
    path.write_text("1.0")
    for step in (0, 1):
        cached = CachedTeacher(Scaled(path), data, root=tmp_path, config=config, name="big")
        cached.predict(data.batches(batch_size=16).batch(step), TASK)
    assert (cached.misses, cached.hits) == (16, 0)
    path.write_text("1.5")
    message = r"other outputs than the teacher 'big' computes now \(sample \d+: logits"
    for call in (lambda c: c.check(TASK), lambda c: c.predict(data.batches(batch_size=16).batch(0), TASK)):
        with pytest.raises(limbeck.LimbeckError, match=message):
            call(CachedTeacher(Scaled(path), data, root=tmp_path, config=config, name="big"))
    path.write_text("1.0")
    CachedTeacher(Scaled(path), data, root=tmp_path, config=config).check(TASK)


def test_a_changed_attribute_hook_or_forward_is_another_cache(tmp_path):
    data, teachers = digits(num_views=1), [network(2) for _ in range(4)]
    teachers[1][2].inplace_scale = 3
    teachers[2][0].register_forward_hook(lambda module, args, output: output + 1)
    teachers[3].forward = lambda x: nn.Sequential.forward(teachers[3], x) * 2
    assert len({one_key(teacher, data, tmp_path) for teacher in teachers}) == 4


def test_a_teacher_whose_outputs_depend_on_the_batch_is_refused(tmp_path):
    torch.manual_seed(0)
    data = digits(num_views=1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(4 * 36, 10)]
    message = "the outputs of teacher 'bn' for a sample depend on the other samples of its batch"
    with pytest.raises(limbeck.LimbeckError, match=message):
        CachedTeacher(nn.Sequential(*layers), data, root=tmp_path, name="bn").check(TASK)
    with pytest.raises(limbeck.LimbeckError, match=message):
        train(CachedTeacher(nn.Sequential(*layers), data, root=tmp_path, name="bn"), data)
    assert not list(tmp_path.iterdir())
    layers[1] = nn.InstanceNorm2d(4)
    CachedTeacher(nn.Sequential(*layers), data, root=tmp_path).check(TASK)


def test_an_attribute_that_each_call_changes_is_no_part_of_the_identity(tmp_path):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls, self.last = network(2), 0, None

        def forward(self, x):
            self.calls, self.last = self.calls + 1, x
            return self.net(x)

    data, teacher = digits(num_views=1), Counts()
    assert one_key(teacher, data, tmp_path) == one_key(teacher, data, tmp_path) == one_key(Counts(), data, tmp_path)


def test_checks_do_not_select_a_backend(tmp_path):
    data, teacher = digits(num_views=1), FrozenTeacher(network(2), backend="auto")
    cached = CachedTeacher(teacher, data, root=tmp_path)
    cached.check(TASK)
    assert teacher.backend.report.backend == "auto"
    assert cached.stats()["folder"] is not None
    assert not Path(cached.stats()["folder"]).exists()


def test_a_task_without_a_codec_is_refused(tmp_path):
    class Bare:
        def outputs(self, network, batch):
            return TASK.outputs(network, batch)

        def target(self, batch):
            return TASK.target(batch)

    data = digits(num_views=1)
    with pytest.raises(limbeck.LimbeckError, match="Bare has no model_inputs, encode_outputs, decode_outputs"):
        CachedTeacher(network(2), data, root=tmp_path).predict(data.batches(batch_size=8).batch(0), Bare())
