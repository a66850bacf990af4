"""What a cache of answers takes: resident memory while it is read, bytes on the disk, and microseconds a batch.

The answers are made up, by a teacher that costs nothing, about pictures of 4×4 pixels. Run as a script, it reads a
cache that stands already and prints by how much its own memory grew, so that nothing else is counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import limbeck
from limbeck.core.outputs import Outputs
from limbeck.data import Augmentation, Normalization, Split, horizontal_flip
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.split import InMemory
from limbeck.teachers import CacheConfig, CachedTeacher, Teacher

BATCH, BATCHES, CLASSES, VIEWS = 64, 8000, 1000, 16
TASK = limbeck.tasks.Classification(CLASSES)
DENSE, TOP = CacheConfig(), CacheConfig(top_k=10)


class MadeUp(Teacher):
    """A teacher that gives one of 512 rows of random logits, at once."""

    def __init__(self) -> None:
        self.rows = torch.randn(512, CLASSES, generator=torch.Generator().manual_seed(0)) * 3

    def fingerprint(self) -> str:
        return "made up"

    def predict(self, batch, task) -> Outputs:
        return Outputs(logits=self.rows[(batch["sample_id"] * VIEWS + batch["view"]) % 512])


def cache(root: Path, format: CacheConfig, *, samples: int, views: int = VIEWS) -> tuple[CachedTeacher, BatchSampler]:
    """A cache for so many made-up samples, and the batches that are asked about."""
    pictures = torch.randint(0, 256, (samples, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Split.from_images(InMemory(pictures), torch.arange(samples) % CLASSES)
    stream = BatchSampler(
        part, Augmentation((horizontal_flip(),), num_views=views), Normalization.none(3), batch_size=BATCH, seed=0
    )
    return CachedTeacher(MadeUp(), stream, root=root, config=format), stream


def bytes_a_view(root: Path, *, samples: int, views: int) -> dict[str, int]:
    """Bytes of all files of a full top-10 cache, and how many answers it holds."""
    teacher, _ = cache(root, TOP, samples=samples, views=views)
    for _ in teacher.populate(TASK):
        pass
    files = [path for path in Path(teacher.stats()["folder"]).iterdir() if path.is_file()]
    assert teacher.stats()["is_complete"]
    return {"bytes": sum(path.stat().st_size for path in files), "answers": teacher.num_entries}


def microseconds(root: Path, *, batches: int) -> dict[str, float]:
    """Median time of `CachedTeacher.predict` for a batch of 64, where it is written and where it is read."""
    found = {}
    for name, format in (("top 10 of 1,000", TOP), ("dense 1,000, float16", DENSE)):
        teacher, stream = cache(root, format, samples=BATCH * batches)
        asked = [stream.batch(number) for number in range(batches)]
        for what in ("written", "read"):
            spent = []
            for batch in asked:
                begun = time.perf_counter()
                teacher.predict(batch, TASK)
                spent.append(1e6 * (time.perf_counter() - begun))
            found[f"{what}, {name}"] = round(statistics.median(spent), 1)
        assert teacher.misses == teacher.hits == BATCH * batches
    return found


def resident(root: Path, kind: str, *, megabytes: int) -> dict[str, object]:
    """By how many megabytes the resident memory of a process grows that reads a large cache in random order."""
    samples = megabytes * 1_000_000 // (VIEWS * (2 * CLASSES + 8))
    teacher, _ = cache(root, DENSE, samples=samples)
    for _ in teacher.populate(TASK, batch_size=1024):
        pass
    folder, answers = teacher.stats()["folder"], teacher.num_entries
    command = [sys.executable, __file__, kind, str(root), folder, str(samples)]
    growth = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"growth": growth, "data": f"{answers:,} answers of {2 * CLASSES + 8:,} bytes", "batches": BATCHES}


def main(kind: str, root: str, folder: str, samples: str) -> None:
    """Read and print the growth in megabytes, the first batches not counted."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(1)
    if kind == "cache":
        teacher, stream = cache(Path(root), DENSE, samples=int(samples))

        def read() -> None:
            which, view = (torch.randint(0, high, (BATCH,), generator=draw) for high in (int(samples), VIEWS))
            teacher.predict(stream.load(which, view), TASK)
    else:
        size = 2 * CLASSES + 8
        maps = [np.memmap(path, np.uint8, "r") for path in sorted(Path(folder).glob("shard-*.bin"))]
        records = [shard.reshape(-1, size) for shard in maps]

        def read() -> None:
            for _ in range(BATCH):
                shard = records[int(torch.randint(0, len(records), (), generator=draw))]
                shard[int(torch.randint(0, len(shard), (), generator=draw))].copy()

    for _ in range(5):
        read()
    before, most = megabytes_resident(), 0.0
    for number in range(BATCHES):
        read()
        if number % 10 == 0:
            most = max(most, megabytes_resident() - before)
    if kind == "cache":
        assert teacher.misses == 0, "the cache was full"
    print(json.dumps(round(most, 1)))


def megabytes_resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
