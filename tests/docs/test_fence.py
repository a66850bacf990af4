"""What is measured is defined by tasks: no other module names a metric or asks a task for its classes."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "limbeck"
# A source and a record have class names of their own.
FENCE = re.compile(r"top1|accuracy|images_per_second|(?<!self)(?<!data)\.classes\)")
ALLOWED = {
    # Rows with one class each, whatever the task.
    "evaluation/class_metrics.py": "the metrics of logits with one class for each sample",
    "training/metric_accumulator.py": "train/accuracy, of rows with one class",
    "training/callbacks.py": "the column train/accuracy of metrics.csv",
    # Checks of image classifiers, refused for other tasks.
    "evaluation/robustness/attacks.py": "accuracy on adversarial images",
    "evaluation/robustness/noise_and_shift.py": "accuracy under noise and shift",
    "workflows/evaluate/robustness.py": "the sections of these checks",
    "workflows/evaluate/evaluation_table.py": "the table of these checks",
    "cli/commands.py": "the names of these checks",
    # Formats of earlier versions.
    "evaluation/saved_predictions.py": "files without the name of the metric are of accuracy",
    "training/train_state.py": "checkpoints with the key accuracy",
    "report/migrate.py": "records of schema 1 to 3.1",
}


def code_lines(path):
    """Lines of a module without comments and docstrings."""
    lines = path.read_text().splitlines()
    if path.suffix != ".py":
        return lines
    start_of_statement = True
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        is_docstring = token.type == tokenize.STRING and start_of_statement
        if token.type == tokenize.COMMENT or is_docstring:
            for number in range(token.start[0], token.end[0] + 1):
                lines[number - 1] = lines[number - 1][: token.start[1]] if number == token.start[0] else ""
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            start_of_statement = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    return lines


def test_metrics_are_named_in_tasks_only():
    found = {}
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE).as_posix()
        if path.suffix in (".py", ".j2", ".js") and not name.startswith("tasks/"):
            hits = [f"{name}:{i}: {line.strip()}" for i, line in enumerate(code_lines(path), 1) if FENCE.search(line)]
            if hits:
                found[name] = hits
    outside = [hit for name, hits in found.items() if name not in ALLOWED for hit in hits]
    assert not outside, "use the MetricSpec of the task, or allow the file with a reason:\n" + "\n".join(outside)
    unused = ALLOWED.keys() - found.keys()
    assert not unused, f"{unused} name no metric now: remove them from ALLOWED"
