"""What distillation adds for another task than the classification of images: `limbeck study` over three seeds.

`python benchmarks/task_study.py camvid` (or spoken_digits, banking77, bccd, camvid_full, asterisk_alignment) reads the
data in $LIMBECK_DATA. Each seed trains its own teacher (unless the recipe has its weights), baseline and distilled
students with the recipe of that name; the rows are of the variant that is best on validation. Finished trials in --work
are reused. Writes benchmarks/results/<recipe>.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from results import fraction_row, gain_row, make_row, parse_options, write_rows

from limbeck.evaluation import paired_mean_ci
from limbeck.workflows import study as run_study
from limbeck.workflows.compare.load_runs import load_study_trials

DATA = {
    "camvid": "CamVid, official splits, 367 training images of 96×72 pixels",
    "camvid_full": "CamVid, official splits, 367 training images",
    "spoken_digits": "Free Spoken Digit Dataset, 600 labeled clips of 2,295, 300 test clips of 6 speakers",
    "bccd": "BCCD blood cells, official splits, 205 training images of 160×120 pixels",
    "banking77": "banking77, 1,540 labeled texts of 8,503, 3,080 test texts",
    "asterisk_alignment": "Asterisk prompts in five languages with English texts, split by text, clips of at most 8 s",
}
GAINS = {
    "camvid": "camvid_kd_gain_miou",
    "camvid_full": "camvid_full_kd_gain_miou",
    "spoken_digits": "fsdd_kd_gain_per",
    "banking77": "banking77_kd_gain",
    "bccd": "bccd_map_gain",
    "asterisk_alignment": "alignment_retrieval_gain",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=DATA)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    parser.add_argument("--work", type=Path, help="folder of the trials (default: runs/study-RECIPE)")
    parser.add_argument("--seeds", type=int, default=3)
    options = parse_options(parser, local=("work", "recipe", "overrides"))
    sys.argv[1:1] = [options.recipe, *options.overrides]
    work = options.work or Path(f"runs/study-{options.recipe}")
    study = run_study(
        options.recipe, ["study.baselines=[student_only]", *options.overrides], seeds=options.seeds,
        output_dir=work, resume=(work / "recipe.yaml").exists(), callbacks=[],
    )  # fmt: skip
    selected = study["results"]["selected"]["variant"]  # on validation
    distilled = study["results"]["variants"][selected]
    data = DATA[options.recipe]
    rows = [gain_row(GAINS[options.recipe], distilled["gain"], data, aim="low > 0")]
    if options.recipe != "asterisk_alignment":  # whose teacher embeds no speech
        aim = ">= 0.5" if options.recipe == "bccd" else "report"
        rows.append(fraction_row(f"{options.recipe}_gap_recovered", distilled["gap_recovered"], data, aim=aim))
    values = read_values(work, study)
    if options.recipe == "spoken_digits":
        pairs = zip(values[selected], values["student_only"], strict=True)
        reductions = [100 * (1 - distilled_per / per) for distilled_per, per in pairs]
        rows.append(make_row(
            "fsdd_kd_per_reduction_percent", reductions, unit="%", aim="low > 0", data=data, digits=1
        ))  # fmt: skip
    if options.recipe == "bccd":
        at_50 = read_values(work, study, metric="map_50")
        gain = paired_mean_ci(*([100 * value for value in at_50[name]] for name in (selected, "student_only")))
        rows.append(gain_row("bccd_map50_gain", gain, data, aim="low > 0"))
    if options.recipe == "asterisk_alignment":
        chrf = read_values(work, study, metric="chrf")
        gains = [a - b for a, b in zip(chrf[selected], chrf["student_only"], strict=True)]
        rows.append(make_row("alignment_chrf_gain", gains, unit="chrF", aim="report", data=data, digits=2))
    rows += variant_rows(options.recipe, study, data)
    write_rows(rows, name=options.recipe, variant=selected, values=values)


def variant_rows(name: str, study: dict, data: str) -> list[dict]:
    """The gain over the baseline of each variant, where a study has several; not corrected for their number."""
    variants = {key: summary["gain"] for key, summary in study["results"]["variants"].items() if summary.get("gain")}
    return [gain_row(f"{name}_gain_{key}", gain, data) for key, gain in variants.items()] if len(variants) > 1 else []


def read_values(work: Path, study: dict, *, metric: str | None = None) -> dict[str, list[float]]:
    """A metric (default: the primary one) on the test split, of each seed of each variant."""
    values: dict[str, list[float]] = {}
    for trial in load_study_trials(work, study):
        values.setdefault(trial.variant, []).append(trial.metric("test", metric or trial.record.primary_spec.name))
    return values


if __name__ == "__main__":
    main()
