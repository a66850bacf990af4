"""Source lines of the package at two commits: all lines, and lines without comments, docstrings and blank lines.

``python benchmarks/source_lines.py BEFORE [--after HEAD]`` reads both from git and writes the totals and the count of
each package.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tokenize
from collections import Counter
from pathlib import Path, PurePosixPath

from results import make_row, write_rows

ROOT = Path(__file__).parents[1]
SKIPPED = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    """The number of lines that hold code: no comment, docstring or blank line."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def count_lines(commit: str) -> dict[str, Counter]:
    """All lines and code lines of ``src/limbeck`` at a commit, by package."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, "src/limbeck"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    counts: dict[str, Counter] = {"all": Counter(), "code": Counter()}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if not member.name.endswith(".py"):
                continue
            source = tar.extractfile(member).read().decode()
            parts = PurePosixPath(member.name).relative_to("src/limbeck").parts
            package = parts[0] if len(parts) > 1 else "limbeck"
            counts["all"][package] += source.count("\n")
            counts["code"][package] += code_lines(source)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", help="a commit")
    parser.add_argument("--after", default="HEAD", help="a commit (default: HEAD)")
    options = parser.parse_args()
    before, after = count_lines(options.before), count_lines(options.after)
    rows = []
    for kind, unit in (("all", "lines"), ("code", "lines without comments, docstrings and blank lines")):
        suffix = "" if kind == "all" else "_code"
        for name, counts, aim in (("before", before, "report"), ("after", after, "80 % of before")):
            total = sum(counts[kind].values())
            rows.append(make_row(f"source_lines_{name}{suffix}", [total], unit=unit, aim=aim, data="src/limbeck"))
    write_rows(rows, packages={"before": before, "after": after})


if __name__ == "__main__":
    main()
