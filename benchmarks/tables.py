"""Write the tables of README and docs from benchmarks/results/*.json; with --check, fail where one differs.

A table stands between `<!-- figures: NAME NAME … -->` and `<!-- end -->`; everything between is generated.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(<!-- figures: (?P<names>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    rows = {row["name"]: row for path in sorted((ROOT / "benchmarks/results").glob("*.json")) for row in read(path)}
    wrong = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = page.read_text()
        after = filled(before, rows, page)
        if after != before:
            wrong.append(page.relative_to(ROOT))
            if "--check" not in sys.argv:
                page.write_text(after)
    if wrong and "--check" in sys.argv:
        print(f"tables are not what benchmarks/results says: {', '.join(map(str, wrong))}; run benchmarks/tables.py")
        return 1
    print(f"{len(wrong)} page(s) written" if wrong else "every table is what benchmarks/results says")
    return 0


def filled(text: str, rows: dict[str, dict], page: Path) -> str:
    return TABLE.sub(lambda found: found[1] + table(found["names"].split(), rows, page) + found[3], text)


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def table(names: list[str], rows: dict[str, dict], page: Path) -> str:
    lines = ["| figure | measured | 95 % interval | n | aim | measured by |", "|---|---|---|---|---|---|"]
    for name in names:
        if name not in rows:
            sys.exit(f"{page}: no file in benchmarks/results has the figure {name!r}")
        one = rows[name]
        ends = "–" if one["low"] is None else f"{one['low']:g} to {one['high']:g}"
        lines.append(
            f"| `{name}` | {one['value']:g} {one['unit']} | {ends} | {one['n']} | {one['aim']} | `{one['command']}` |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
