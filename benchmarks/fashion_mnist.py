"""recipes/fashion_mnist.yaml over five seeds: the gain over the baseline at equal steps."""

from __future__ import annotations

import argparse

from results import write_rows
from run_seeds import run_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    words = ["fashion_mnist", *(["--data-root", options.data_root] if options.data_root else [])]
    data = "Fashion-MNIST, 500 labels of 12,000 images"
    rows, accuracies, _ = run_seeds("fashion", words, num_seeds=options.seeds, data=data)
    write_rows(rows, test=accuracies)


if __name__ == "__main__":
    main()
