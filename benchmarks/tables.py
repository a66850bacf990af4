"""Write the tables of README and docs from benchmarks/results/*.json; with --check, fail where one differs.

A table is everything between `<!-- figures: NAME NAME … -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(<!-- figures: (?P<names>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    rows = {
        row["name"]: row for path in sorted((ROOT / "benchmarks/results").glob("*.json")) for row in read_rows(path)
    }
    outdated = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = page.read_text()
        after = fill_tables(before, rows, page)
        if after != before:
            outdated.append(page.relative_to(ROOT))
            if "--check" not in sys.argv:
                page.write_text(after)
    if outdated and "--check" in sys.argv:
        print(f"tables differ from benchmarks/results: {', '.join(map(str, outdated))}; run benchmarks/tables.py")
        return 1
    print(f"{len(outdated)} page(s) written" if outdated else "all tables are up to date")
    return 0


def fill_tables(text: str, rows: dict[str, dict], page: Path) -> str:
    return TABLE.sub(lambda match: match[1] + make_table(match["names"].split(), rows, page) + match[3], text)


def read_rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def make_table(names: list[str], rows: dict[str, dict], page: Path) -> str:
    lines = ["| metric | measured | 95 % interval | n | aim | measured by |", "|---|---|---|---|---|---|"]
    for name in names:
        if name not in rows:
            sys.exit(f"{page}: no file in benchmarks/results has a row {name!r}")
        row = rows[name]
        interval = "–" if row["low"] is None else f"{row['low']:g} to {row['high']:g}"
        lines.append(
            f"| `{name}` | {row['value']:g} {row['unit']} | {interval} | {row['n']} | {row['aim']} "
            f"| `{row['command']}` |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
