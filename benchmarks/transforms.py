"""Time of torchvision's color jitter and resized crop over limbeck's, for a batch of 128 images with one view each.

    python benchmarks/transforms.py

Views must not depend on the batch, so torchvision's transforms run image by image, each with its own seed
(`limbeck.data.torchvision`). A ratio below 1.2 would make limbeck's transforms superfluous.
"""

from __future__ import annotations

import argparse

import torch
from results import make_row, write_rows

from limbeck.data import color_jitter, random_resized_crop, torchvision
from limbeck.data.counter_rng import CounterRNG
from limbeck.utils.timing import measure_latencies

BATCH, REPEATS = 128, 5
TRANSFORMS = {
    "color_jitter": (
        color_jitter(0.4, 0.4, 0.4, 0.1),
        torchvision("ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    ),
    "random_resized_crop": (random_resized_crop(), None),
}


def measure_ratio(name: str, size: int) -> float:
    """Median time of torchvision's transform over that of limbeck's, in one process."""
    transform, reference = TRANSFORMS[name]
    reference = reference or torchvision("RandomResizedCrop", size=(size, size))
    images = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    rng = CounterRNG.for_samples(torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.long), seed=0, transform_index=0)
    calls = {"limbeck": lambda: transform(images, rng), "torchvision": lambda: reference(images, rng)}
    times = measure_latencies(calls, rounds=5, calls_per_round=4, max_seconds=10)
    return times["torchvision"]["median"] / times["limbeck"]["median"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in TRANSFORMS:
        for size in (32, 96):
            ratios = [measure_ratio(name, size) for _ in range(REPEATS)]
            rows.append(
                make_row(
                    f"transform_time_torchvision_over_limbeck_{name}_{size}", ratios, unit="ratio",
                    aim="at least 1.2 to keep limbeck's", data=f"{BATCH} random images of 3×{size}×{size}",
                )
            )  # fmt: skip
    write_rows(rows)


if __name__ == "__main__":
    main()
