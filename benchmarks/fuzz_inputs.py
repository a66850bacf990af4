"""Inputs of fuzz.py: mutated recipes, argument lists and damaged files, each a function of a random generator."""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from limbeck.cli import make_parser

SMALL = """\
name: small
num_threads: 1
task: {use: Classification}
data: {use: Digits, num_labeled: 50, val_split: 0.2, test_split: 0.5, augment: {use: Augmentation,
  transforms: [{use: affine, degrees: 10, scale: [0.9, 1.1], translate: 0.06}], num_views: 2}}
teachers: {teacher: {use: small_cnn, width: 8, depth: 2}}
student: {use: small_cnn, width: 4, depth: 2}
teacher_training: {steps: 2, objective: {target: CrossEntropyLoss}, training: {optimizer: {lr: 0.01}}}
stages:
  - name: distill
    steps: 2
    objective: {kd: {use: KDLoss, temperature: 4}}
training:
  optimizer: {use: AdamW, lr: 0.02, weight_decay: 0.01}
  scheduler: {use: OneCycleLR, max_lr: 0.02}
  batch_size: 32
cache: {top_k: 5, tail: spread}
"""
LARGE = """\
name: large
num_threads: 1
task: {use: Classification, classes: 10}
data: {use: Digits, val_split: 0.2, test_split: 0.2}
teachers:
  first: {use: small_cnn, width: 8, depth: 2, train_fraction: 0.5}
  second: {use: mlp, hidden: [8], size: 8}
ensemble: {use: MeanProbabilities, weights: {first: 1.0, second: 0.5}}
student: {use: small_cnn, width: 4, depth: 2}
teacher_training: {steps: 2, objective: {target: {use: CrossEntropyLoss, label_smoothing: 0.1}}}
stages:
  - name: features
    steps: 1
    objective:
      target: {use: CrossEntropyLoss, weight: 0.5}
      kd: {use: KDLoss, temperature: {use: linear, start: 6, end: 3}, weight: {use: cosine, start: 1.0, end: 0.5}}
      at: {use: AttentionTransferLoss, layer: block, teacher: first}
    feature_layers: {student: {block: block1}, first: {block: block1}}
    training: {batch_size: 16, optimizer: {lr: 0.01}}
  - name: responses
    epochs: 1
    objective: {dkd: {use: DKDLoss, alpha: 1.0, beta: 2.0, temperature: 4.0}}
    freeze: [block1]
training:
  optimizer: {use: SGD, lr: 0.05, momentum: 0.9}
  scheduler: {use: CosineAnnealingLR}
  batch_size: 512
  max_grad_norm: 1.0
  ema_decay: 0.9
  keep_weights: best
  parameter_groups: [{match: '*.bias', weight_decay: 0.0}]
export: {to: [onnx]}
study:
  seeds: [0, 1]
  baselines: [student_only, label_smoothing]
  variants:
    hot: {stages.0.objective.kd.temperature: 8.0}
    one: {teachers: [first], training.optimizer.lr: 0.1}
"""
CHAIN = """\
name: chain
num_threads: 1
task: Classification
data: {use: Digits, num_labeled: 100, val_split: 0.2, test_split: 0.5, normalize: none}
teachers: {teacher: {use: small_vit, width: 8, depth: 1, patch_size: 4, num_heads: 2}}
assistants: {middle: {use: small_cnn, width: 6, depth: 2}}
assistant_mode: dense
student: {use: small_cnn, width: 4, depth: 2}
teacher_training: {steps: 2, objective: {target: CrossEntropyLoss}}
stages: [{name: distill, steps: 2, objective: {kd: {use: KDLoss, weight: 0.9}, target: CrossEntropyLoss}}]
baselines: [student_only, no_assistants]
training: {optimizer: {use: Adam, lr: 0.01}, scheduler: {use: StepLR, step_size: 1, interval: epoch}, batch_size: 64}
"""
RECIPES = (SMALL, LARGE, CHAIN)

_NUMBERS = (
    0, 1, -1, 2, 3, 0.5, 1.5, -0.1, 10**5, 10**9, 10**11, 10**30, 1e200, 1e308, 1e-300, -(10**30), float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
_TEXTS = (
    "", " ", "abc", "null", "0", "1e-3", "student", "teacher", "distill", "small_cnn", "KDLoss", "os:system", "a" * 300,
    "a.b.c", "../x", "/", "/proc/x", ".", "~", "ünïcode 日本", "\x1b[31mred", "\0", "{use: x}", "%s %d {0}",
    "sympy:sympify", "torchvision", "timm", "LBFGS", "SparseAdam", "ReduceLROnPlateau", "Rprop", "LambdaLR", "CyclicLR",
    "resnet20", "unet", "Segmentation", "SpeechCTC", "ImageFolder", "mixup", "GradNorm", "FitNetLoss", "CRDLoss",
    "EMATeacher",
)  # fmt: skip
_OVERRIDES = (
    "seed=1", "student.width=16", "stages.0.epochs=5", "training.optimizer.lr=1e-2", "num_threads=100000", "x", "=",
    "a=", "student.use=mlp", "stages.0.steps=0", "stages.9.steps=1", "data.num_labeled=10000", "a.b.c.d=1", "stages=[]",
    "training.batch_size=1e30", "seed=[1]", "study.seeds=1000000000", "generations=100000000000", "training=null",
    "student.classes=3", "student.channels=5", "teachers={}", "name=../x", "cache.root=/proc/x", "seed={a: b", "..=1",
)  # fmt: skip
_NUMBER_TEXTS = ("0", "-1", "1", "2", "1e9", "100000000000", "nan", "inf", "-inf", "x", "", "1.5", "1e308", "99999")


def mutate_recipe(generator: random.Random) -> bytes:
    """The text of a recipe with one to three mutations of its values, or of its text."""
    text = generator.choice(RECIPES)
    if generator.random() < 0.15:
        return damage_text(text.encode(), generator)
    data = yaml.safe_load(text)
    for _ in range(generator.choice((1, 1, 2, 3))):
        _mutate(data, generator)
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode()


def make_arguments(generator: random.Random) -> list[str]:
    """A command with random options and values; its folders are those that :func:`make_paths` writes."""
    name, parser = generator.choice(list(_commands(make_parser())))
    words: list[str] = []
    positionals: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.dest == "debug":  # which prints tracebacks
            continue
        if not action.option_strings:
            positionals += _positional_values(action, generator)
        elif generator.random() < 0.35:
            words.append(generator.choice(action.option_strings))
            if action.nargs != 0 and generator.random() < 0.95:
                words.append(_option_value(action, generator, deletes=name == "cache prune"))
    if generator.random() < 0.1:
        words.append(generator.choice(("--nonsense", "--resume=3", "-h", "--", "--out", "-x", "\udcff")))
    return [*name.split(), *(positionals + words if generator.random() < 0.7 else words + positionals)]


def make_paths(folder: Path) -> None:
    """Files, folders and links that argument lists name."""
    (folder / "file.txt").write_text("text\n")
    (folder / "folder").mkdir()
    (folder / "folder" / "inside.txt").write_text("x")
    (folder / "empty").mkdir()
    (folder / "nowhere-link").symlink_to(folder / "missing-target")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "small.yaml").write_text(SMALL)
    (folder / "study.yaml").write_text(LARGE)
    (folder / "bad.yaml").write_bytes(b"task: \xff\xfe\n")


_PATHS = (
    "missing", "file.txt", "folder", "empty", ".", "nowhere-link", "loop", "run", "study", "/proc/x", "/proc/self/x",
    "a" * 300, "deep/" * 100 + "x", "file.txt/x", "", " ", "ünïcode", "with space", "a\nb", "[x]", "a: b", "small.yaml",
    "run/record.json", "run/recipe.yaml", "missing/x/y.html",
)  # fmt: skip


def damage_file(path: Path, generator: random.Random) -> str:
    """Damage the file at ``path`` in one way, and return its name."""
    data = path.read_bytes()
    kinds = ["truncated", "empty", "flipped", "random", "folder", "link", "loop", "missing", "not UTF-8"]
    if path.suffix in (".json", ".yaml", ".csv", ".txt"):
        kinds += ["edited"] * 12
    kind = generator.choice(kinds)
    if kind in ("folder", "link", "loop", "missing"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind != "missing":
            path.symlink_to(path if kind == "loop" else path.with_name("missing-target"))
        return kind
    if kind == "edited":
        path.write_bytes(_edit(data, path.suffix, generator))
    elif kind == "truncated":
        path.write_bytes(data[: generator.randrange(len(data) + 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flipped":
        changed = bytearray(data)
        for _ in range(generator.choice((1, 3, 30)) if changed else 0):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        path.write_bytes(bytes(changed))
    else:
        path.write_bytes(generator.randbytes(200) if kind == "random" else b"\xff\xfe" + data)
    return kind


def damage_text(data: bytes, generator: random.Random) -> bytes:
    """``data`` with a line or some bytes removed, doubled or replaced."""
    lines, kind = data.splitlines(keepends=True), generator.randrange(6)
    index = generator.randrange(len(lines)) if lines else 0
    if kind == 0:
        return data[: generator.randrange(len(data) + 1)]
    if kind == 1:
        return b"".join(lines[:index] + lines[index + 1 :])
    if kind == 2:
        return b"".join(lines[: index + 1] + lines[index:])
    if kind == 3:
        inserted = generator.choice(
            (b"\t", b"\xff", b"\0", b"&a [*a]", b"!!python/name:os.system", b"- - -", b"{" * 2000)
        )
        position = generator.randrange(len(data) + 1)
        return data[:position] + inserted + data[position:]
    if kind == 4:
        return b"".join(lines[:index] + [b"  " + line for line in lines[index:]])
    changed = bytearray(data)
    if changed:
        changed[generator.randrange(len(changed))] = generator.randrange(32, 127)
    return bytes(changed)


def copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)


def _edit(data: bytes, suffix: str, generator: random.Random) -> bytes:
    """A text file with another content of its own format."""
    if suffix == ".csv":
        return _edit_csv(data, generator)
    if suffix == ".json" and generator.random() < 0.2:
        return generator.choice((b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"null", b"1e999", b'"text"', b"{}", b"NaN"))
    try:
        content = json.loads(data) if suffix == ".json" else yaml.safe_load(data)
    except ValueError:
        content = None
    if not isinstance(content, dict | list):
        return damage_text(data, generator)
    for _ in range(generator.choice((1, 1, 2, 5))):
        _mutate(content, generator)
    if suffix == ".json":
        return json.dumps(content).encode(errors="surrogatepass")
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode()


def _edit_csv(data: bytes, generator: random.Random) -> bytes:
    rows = [line.split(b",") for line in data.split(b"\n")]
    row = generator.choice(rows)
    values = (
        b"nan",
        b"inf",
        b"-inf",
        b"1e999",
        b"x",
        b"",
        b"1" * 5000,
        b"y" * 200_000,
        b"\xff",
        b"\0",
        b'"',
        b"=1+1",
        b"-1",
    )
    row[generator.randrange(len(row))] = generator.choice(values)
    if generator.random() < 0.2:
        rows = rows[1:]
    return b"\n".join(b",".join(row) for row in rows)


def _containers(data: Any) -> Iterator[Any]:
    """Every mapping and list in ``data`` that has an item."""
    if isinstance(data, dict | list) and data:
        yield data
        for item in data.values() if isinstance(data, dict) else data:
            yield from _containers(item)


def _mutate(data: Any, generator: random.Random) -> None:
    """Change one item of ``data`` in place."""
    containers = list(_containers(data))
    if not containers:
        return
    container = generator.choice(containers)
    key = generator.choice(list(container) if isinstance(container, dict) else range(len(container)))
    kind = generator.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[generator.choice(_TEXTS[:10]) or "new"] = _value(generator)
    elif kind == 2:
        container[key] = copy.deepcopy(generator.choice(containers))
    elif kind == 3 and isinstance(container, dict) and "variants" in container:
        container["variants"] = {f"v{i}": {"training.batch_size": 16 + i} for i in range(500)}
    elif kind == 4 and isinstance(container, dict) and "use" in container:
        container["use"] = generator.choice(_TEXTS)
    elif kind in (5, 6) and isinstance(old := container[key], int | float) and not isinstance(old, bool):
        new = old * generator.choice((0.01, 0.1, 0.5, 2, 3, 10, 100))
        container[key] = round(new) if isinstance(old, int) else new
    else:
        container[key] = _value(generator)


def _value(generator: random.Random) -> Any:
    kind = generator.randrange(10)
    if kind < 5:
        return generator.choice(_NUMBERS)
    if kind < 7:
        return generator.choice(_TEXTS)
    nested = (
        None, True, False, [], {}, [[]], [1, 2], ["a"], [["a"]], {"a": 1}, {"use": "x"}, {1: 2}, {"use": ["x"]},
        {"use": "linear", "start": 1}, {"use": "linear", "start": 1e308, "end": -1e308}, [None], [{}] * 50,
        list(range(2000)),
    )  # fmt: skip
    return copy.deepcopy(generator.choice(nested))


def _commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from _commands(child, (*words, name))
    if parser.get_default("run") is not None:
        yield " ".join(words), parser


def _positional_values(action: argparse.Action, generator: random.Random) -> list[str]:
    if action.dest == "overrides":
        return generator.sample(_OVERRIDES, generator.choice((0, 0, 1, 2)))
    if action.dest == "recipe":
        names = (
            "small.yaml",
            "study.yaml",
            "digits",
            "bad.yaml",
            "folder",
            "missing.yaml",
            "",
            "a" * 300,
            "file.txt",
            "a: b",
        )
        return [generator.choice(names)]
    if action.dest == "model":
        names = (
            "resnet20",
            "small_vit",
            "mlp",
            "timm:x",
            "torchvision:resnet18",
            "torchvision:",
            "os:system",
            "x",
            "",
            "a:b:c",
        )
        return [generator.choice(names)]
    if action.dest == "keys":
        return generator.sample(("", "a", "f" * 300, "../.."), generator.choice((0, 1, 2)))
    if action.dest in ("folder", "folders"):
        count = generator.choice((1, 1, 2)) if action.dest == "folders" else 1
        return [generator.choice(("run", "run", "study", *_PATHS)) for _ in range(count)]
    return [generator.choice(_PATHS)]


def _option_value(action: argparse.Action, generator: random.Random, *, deletes: bool) -> str:
    if action.type in (int, float) or action.dest in ("eps", "seed"):
        return generator.choice(_NUMBER_TEXTS)
    if action.choices:
        return generator.choice([*map(str, action.choices), "x"])
    if action.dest == "shape":
        return generator.choice(
            ("3x32x32", "1x8x8", "3x100000x100000", "0x1", "-1x2", "", "axb", "3", "1" * 40, "3x2x2x2")
        )
    if action.dest in ("attacks", "baseline", "plugins", "license"):
        return generator.choice(("", "fgsm", "pgd,apgd", "x", "student", "os", "numpy", "a" * 300, "\x1b[31m"))
    return generator.choice(_PATHS if deletes else (*_PATHS, "..", "/"))
