"""recipes/fashion_mnist.yaml over five seeds: the gain over the same student alone at equal steps."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from gains import gains
from results import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    limbeck = str(Path(sys.executable).with_name("limbeck"))
    where = ["--data-root", options.data_root] if options.data_root else []
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(seed) for seed in range(options.seeds)]
        for seed, out in enumerate(runs):
            command = [limbeck, "distill", "fashion_mnist", "--seed", str(seed), "--out", str(out), *where]
            subprocess.run(command, check=True)
        rows, accuracies = gains("fashion", runs, data="Fashion-MNIST, 500 labels of 12,000 pictures")
    write(rows, test=accuracies)


if __name__ == "__main__":
    main()
