"""`use:` reaches limbeck's own names and listed packages, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.recipe import registry as aliases
from limbeck.recipe.plugins import plugin_error
from limbeck.recipe.registry import NODE_KINDS, NodeKind, list_names, resolve_target


def test_every_kind_has_names_and_each_resolves():
    for kind in NODE_KINDS:
        assert list_names(kind) or kind in ("callback", "logger")  # classes of users only
        for name in list_names(kind):
            resolved_kind, target = resolve_target(name, [kind])
            assert resolved_kind == kind
            assert callable(target)


def test_names_are_of_their_kind_only():
    assert {"Digits", "ImageFolder"} <= set(list_names("data"))
    assert "Augmentation" not in list_names("data")
    assert list_names("augmentation") == ["Augmentation", "default_augmentation"]
    assert list_names("transform") == [
        "affine", "color_jitter", "cutmix", "horizontal_flip", "mixup", "rand_augment", "random_crop",
        "random_resized_crop", "scale_jitter", "spec_augment", "torchvision",
    ]  # fmt: skip
    assert "small_cnn" in list_names("model")
    assert not {"load_weights", "save_weights", "catalogue"} & set(list_names("model"))
    assert {"KDLoss", "CrossEntropyLoss", "FitNetLoss", "AttentionTransferLoss", "GramLoss"} <= set(list_names("loss"))
    assert "kd_loss" not in list_names("loss")
    assert "Optimizer" not in list_names("optimizer") and "LRScheduler" not in list_names("scheduler")  # noqa: PT018


def test_optimizers_are_torch_s():
    assert resolve_target("AdamW", ["optimizer"]) == ("optimizer", torch.optim.AdamW)
    assert resolve_target("OneCycleLR", ["scheduler"]) == ("scheduler", torch.optim.lr_scheduler.OneCycleLR)


def test_the_first_kind_that_has_the_name_wins(monkeypatch):
    def _room(name, **things):
        room = types.ModuleType(name)
        room.__all__ = list(things)
        for key, thing in things.items():
            setattr(room, key, thing)
        monkeypatch.setitem(sys.modules, name, room)
        return NodeKind(display_name=name, module=name, is_member=callable, builds=())

    one, two = (lambda: 1), (lambda: 2)
    kinds = {"one": _room("fake_one", same=one, _private=one), "two": _room("fake_two", same=two, other=two)}
    monkeypatch.setattr(aliases, "NODE_KINDS", kinds)
    assert resolve_target("same", ["two", "one"]) == ("two", two)
    assert resolve_target("same", ["one", "two"]) == ("one", one)
    assert list_names("one") == ["same"]


def test_a_misspelt_name_suggests_the_nearest(sentence):
    message = sentence(resolve_target, "smal_cnn", ["model"], config_path="student")
    assert message.startswith("student: no model is named 'smal_cnn'; available: small_cnn")


@pytest.mark.parametrize("use", ["__doc__", "__builtins__", "functional", "lr_scheduler", "swa_utils", "load", "", "."])
def test_private_names_do_not_resolve(sentence, use):
    for kind in NODE_KINDS:
        assert "is named" in sentence(resolve_target, use, [kind])


def test_a_plugin_is_not_imported_before_it_is_listed(sentence, plugin):
    message = sentence(resolve_target, f"{plugin}.nets:Net", ["model"], config_path="student")
    assert f"add `plugins: [{plugin}]` to the recipe" in message
    assert plugin not in sys.modules
    assert f"`plugins: [mine, {plugin}]`" in sentence(resolve_target, f"{plugin}.nets:Net", ["model"], plugins=["mine"])
    assert plugin not in sys.modules


@pytest.mark.parametrize("listed", ["limbeck_test_plugin", "limbeck_test_plugin.nets"])
def test_a_listed_package_opens_what_is_below_it(plugin, listed):
    kind, target = resolve_target(f"{plugin}.nets:Net", ["model"], plugins=[listed])
    assert kind == "model"
    assert target(width=1, classes=2).classes == 2


def test_a_listed_package_opens_neither_its_parent_nor_its_namesakes(sentence, plugin):
    assert "not listed" in sentence(resolve_target, f"{plugin}:Net", ["model"], plugins=[f"{plugin}.nets"])
    assert "not listed" in sentence(resolve_target, f"{plugin}.nets:Net", ["model"], plugins=[plugin[:-1]])
    assert plugin not in sys.modules


@pytest.mark.parametrize(
    "use",
    [
        "x.y:a.b", "x y:Net", "x:", ":Net", "x:Net:z", "x..y:Net", "x:__class__", "x.__init__:Net", "__main__:Net",
        "x:Net()", "x:1", "x-y:Net", "x/y:Net", "x:Net\n", "ｘ:Net",
    ],
)  # fmt: skip
def test_a_path_of_another_form_is_refused(sentence, use):
    assert "is not a path of the form" in sentence(resolve_target, use, ["model"], plugins=["x", "__main__"]).replace(
        "\\n", ""
    )


@pytest.mark.parametrize(
    "use", ["os:system", "builtins:eval", "subprocess:Popen", "importlib:import_module", "shutil:rmtree"]
)
def test_python_s_own_library_is_out_of_reach_even_when_listed(sentence, use):
    message = sentence(resolve_target, use, ["model"], plugins=[use.partition(":")[0]])
    assert "part of Python itself" in message


def test_what_a_package_only_imports_is_not_its_own(sentence, plugin):
    for name in ("system", "OrderedDict"):
        assert "is defined in" in sentence(resolve_target, f"{plugin}.nets:{name}", ["model"], plugins=[plugin])


def test_a_plugin_s_faults_are_one_sentence(sentence, plugin):
    def ask(path):
        return sentence(resolve_target, f"{plugin}.{path}", ["model"], plugins=[plugin], config_path="student")

    assert ask("broken:Net").endswith("broken failed when imported (RuntimeError: no luck)")
    assert "failed when imported (SystemExit: 3)" in ask("leaves:Net")
    assert "needs 'a_package_that_is_not_there', which is not installed" in ask("needs:Net")
    assert "there is no module 'limbeck_test_plugin.gone'" in ask("gone:Net")
    assert "has no 'Nett'; available: Net" in ask("nets:Nett")
    assert "is a int, and `use` takes a class or a function" in ask("nets:number")


@pytest.mark.parametrize("name", ["os", "sys", "os.path", "__main__", "a b", "", ".x", "x.", "x:y", "x.__y__", "1x"])
def test_what_cannot_be_a_plugin_is_refused(name):
    assert plugin_error(name)


def test_reading_recipes_imports_neither_torch_nor_rooms(tmp_path, digits):
    (tmp_path / "x.yaml").write_text(digits)
    code = (
        "import sys, limbeck.recipe\n"
        f"limbeck.recipe.load_recipe({str(tmp_path / 'x.yaml')!r}, ['training.optimizer.lr=1e-2'])\n"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('limbeck.')} - {'recipe', 'core', 'utils', "
        "'_version'}\n"
        "print(rooms or 'none', *sorted({'torch', 'torchvision', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "none"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("own_nets.Net", r"a class of your own as own_nets:Net\)"),
        ("resnet18", r"a class of your own as package\.module:Name\)"),
        ("own_nets.py:Net", r"must name a module, got the file own_nets\.py: write own_nets:Net"),
        ("./nets/own.py:Net", r"write nets\.own:Net"),
    ],
)
def test_another_way_to_write_a_class_is_answered_with_the_right_one(use, message):
    with pytest.raises(LimbeckError, match=message):
        resolve_target(use, ["model"], plugins=["own_nets", "nets"], config_path="student")
