"""Weights come back as they were, nothing in a file can run, and what does not fit is one sentence."""

from __future__ import annotations

import argparse
import os
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.models import load_weights, mlp, save_weights, small_cnn


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.equal(x, y) for (n, x), (m, y) in pairs)


class Tied(nn.Module):
    """Two layers with one weight, as an encoder's embedding and its head."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight


class Hostile:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_saved_weights_come_back_bit_for_bit(tmp_path):
    net = small_cnn()
    net(torch.randn(4, 1, 8, 8))  # moves the BatchNorm statistics
    file = save_weights(net, tmp_path / "deep" / "net.safetensors")
    other = small_cnn()
    assert load_weights(other, file) is other
    assert same(net, other)
    assert other.block1.bn.num_batches_tracked == 1


def test_metadata_stands_in_the_header(tmp_path):
    metadata = {"recipe": "digits"}
    file = save_weights(mlp(), tmp_path / "net.safetensors", metadata=metadata)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["recipe"] == "digits"
    assert metadata == {"recipe": "digits"}


def test_saving_leaves_no_other_file_and_replaces_the_old_one(tmp_path):
    file = tmp_path / "net.safetensors"
    save_weights(mlp(), file)
    net = mlp()
    save_weights(net, file)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert same(load_weights(mlp(), file), net)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch

    net = mlp()
    file = save_weights(net, tmp_path / "net.safetensors")

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_model", full)
    with pytest.raises(LimbeckError, match="No space left"):
        save_weights(mlp(), file)
    assert same(load_weights(mlp(), file), net)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_shared_tensors_stay_shared(tmp_path, suffix):
    net, file = Tied(), tmp_path / f"net{suffix}"
    save_weights(net, file) if suffix == ".safetensors" else torch.save(net.state_dict(), file)
    other = load_weights(Tied(), file)
    assert torch.equal(other.a.weight, net.a.weight)
    assert other.b.weight is other.a.weight


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("under", [None, "state_dict", "model", "student"])
def test_pytorch_files_are_read_bare_or_nested(tmp_path, suffix, under):
    net, file = mlp(), tmp_path / f"net{suffix}"
    torch.save(net.state_dict() if under is None else {under: net.state_dict(), "epoch": 3}, file)
    assert same(load_weights(mlp(), file), net)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_dropped(tmp_path, prefix):
    net = mlp()
    torch.save({prefix + name: tensor for name, tensor in net.state_dict().items()}, tmp_path / "net.pt")
    assert same(load_weights(mlp(), tmp_path / "net.pt"), net)


def test_a_wrapped_model_takes_plain_weights(tmp_path):
    net, wrapped = mlp(), nn.DataParallel(mlp())
    load_weights(wrapped, save_weights(net, tmp_path / "net.safetensors"))
    assert same(wrapped.module, net)


def test_a_run_folder_stands_for_its_student(tmp_path):
    net = mlp()
    save_weights(net, tmp_path / "student.safetensors")
    assert same(load_weights(mlp(), tmp_path), net)


def test_files_from_before_the_count_of_batches_are_read(tmp_path):
    net = small_cnn()
    torch.save({n: t for n, t in net.state_dict().items() if "num_batches" not in n}, tmp_path / "net.pt")
    assert same(load_weights(small_cnn(), tmp_path / "net.pt"), net)


def test_half_precision_weights_fill_a_float_model(tmp_path):
    torch.save(mlp().half().state_dict(), tmp_path / "net.pt")
    assert load_weights(mlp(), tmp_path / "net.pt").fc.weight.dtype == torch.float32


def test_a_head_of_other_classes_is_named_as_such(tmp_path):
    file = save_weights(small_cnn(classes=100), tmp_path / "net.safetensors")
    net = small_cnn()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(LimbeckError) as caught:
        load_weights(net, file)
    words = str(caught.value)
    assert "fc.weight ([100, 12] in the file, [10, 12] in the model)" in words
    assert "wrong class count: build the model with classes: 100" in words
    assert "\n" not in words
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_an_ignored_head_keeps_its_own_weights(tmp_path):
    trained = small_cnn(classes=100)
    file = save_weights(trained, tmp_path / "net.safetensors")
    net = small_cnn()
    head = net.fc.weight.clone()
    load_weights(net, file, ignore_modules=["fc"])
    assert torch.equal(net.fc.weight, head)
    assert torch.equal(net.block2.conv.weight, trained.block2.conv.weight)


def test_ignoring_what_the_model_does_not_have_is_refused(tmp_path):
    file = save_weights(small_cnn(), tmp_path / "net.safetensors")
    with pytest.raises(LimbeckError, match="no weights under 'head'"):
        load_weights(small_cnn(), file, ignore_modules=["head"])


def test_another_architecture_is_one_sentence_with_a_few_names(tmp_path):
    file = save_weights(mlp(), tmp_path / "net.safetensors")
    with pytest.raises(LimbeckError) as caught:
        load_weights(small_cnn(depth=5), file)
    words = str(caught.value)
    assert "nothing for block1.conv.weight, block1.bn.weight, block1.bn.bias and" in words
    assert "names that the model does not have: layer1.bias, layer1.weight" in words
    assert "fc.weight ([10, 64] in the file, [10, 12] in the model)" in words
    assert "wrong class count" not in words
    assert "\n" not in words
    assert len(words) < 700


def test_another_width_is_not_taken_for_another_class_count(tmp_path):
    file = save_weights(small_cnn(width=16), tmp_path / "net.safetensors")
    with pytest.raises(LimbeckError, match="build the model with the options it was trained with") as caught:
        load_weights(small_cnn(), file)
    assert "and" in str(caught.value)


def test_no_code_in_a_file_is_run(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    torch.save({"fc.weight": Hostile()}, tmp_path / "hostile.pt")
    (tmp_path / "pickle.bin").write_bytes(pickle.dumps({"fc.weight": Hostile()}))
    torch.save(mlp(), tmp_path / "whole.pth")
    for name in ("hostile.pt", "pickle.bin", "whole.pth"):
        with pytest.raises(LimbeckError, match="holds more than weights"):
            load_weights(mlp(), tmp_path / name)
    assert ran == []


def test_a_training_checkpoint_of_timm_or_torchvision_is_read(tmp_path):
    network, file = mlp(), tmp_path / "model_best.pth.tar"
    extras = {
        "args": argparse.Namespace(lr=0.1, opt="sgd"), "metric": np.float64(3.0), "step": np.int64(4),
        "optimizer": torch.optim.SGD(network.parameters(), momentum=0.9).state_dict(), "best_acc1": torch.tensor(1.0),
    }  # fmt: skip
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 1, "arch": "mlp", "state_dict": state, **extras}, file)
    assert same(load_weights(mlp(), file), network)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_damaged_file_is_one_sentence(tmp_path, suffix, damage):
    net, file = mlp(), tmp_path / f"net{suffix}"
    save_weights(net, file) if suffix == ".safetensors" else torch.save(net.state_dict(), file)
    whole = file.read_bytes()
    file.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"hello world" * 20}[damage])
    with pytest.raises(LimbeckError, match=re.escape(f"{file} is damaged or no")) as caught:
        load_weights(mlp(), file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "lr": 0.1}, "but a dict of epoch, lr: save model.state_dict()"),
        ({}, "but a dict of nothing"),
        ([torch.zeros(2)], "but list"),
        (torch.zeros(2), "but Tensor"),
        ({3: torch.zeros(2)}, "but a dict of 3"),
        ({"student": {"a": torch.zeros(1)}, "model": {"a": torch.zeros(1)}}, "weights under student, model"),
    ],
)
def test_a_file_without_a_state_dict_tells_what_it_holds(tmp_path, content, says):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(LimbeckError, match=re.escape(says)):
        load_weights(mlp(), tmp_path / "net.pt")


def test_paths_without_weights_are_errors(tmp_path):
    save_weights(mlp(), tmp_path / "net.safetensors")
    (tmp_path / "notes.txt").write_text("nothing")
    for name, says in [
        ("nat.safetensors", "weights in its folder: net.safetensors"),
        ("", "holds no student.safetensors or model.safetensors"),
        ("notes.txt", "not from 'notes.txt'"),
        ("nowhere/net.pt", "there are no weights at"),
    ]:
        with pytest.raises(LimbeckError, match=re.escape(says)):
            load_weights(mlp(), tmp_path / name)


def test_weights_are_saved_as_safetensors_only(tmp_path):
    with pytest.raises(LimbeckError, match=re.escape("got 'net.pt'; use net.safetensors")):
        save_weights(mlp(), tmp_path / "net.pt")


def test_metadata_is_text(tmp_path):
    with pytest.raises(LimbeckError, match="'epoch' is 3"):
        save_weights(mlp(), tmp_path / "net.safetensors", metadata={"epoch": 3})


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("model_best.pth.tar", "module."), ("last.ckpt", "model."), ("epoch=3.ckpt", "model._orig_mod.")],
)
def test_checkpoints_of_training_scripts_and_lightning_are_read(tmp_path, name, prefix):
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "best_acc1": 71.5, "optimizer": {"lr": 0.1}, "state_dict": state}, tmp_path / name)
    load_weights(other, tmp_path / name)
    assert torch.equal(other.weight, network.weight)
