"""The page in Chromium: quiet, offline, and as wide as the window on a phone and on a desk."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from limbeck.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: no chromium or google-chrome on PATH"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000",
    "--window-size=1400,900", "--dump-dom",
)  # fmt: skip
# Runs inside a copy of the page, in a frame of the wanted width (a window cannot be made as narrow as a phone).
PROBE = """<script>
const errors = [];
addEventListener('error', e => errors.push(String(e.message || e.target.src || e.target.href)), true);
addEventListener('load', () => { const root = document.documentElement; parent.postMessage({ name: window.name, errors,
  client: root.clientWidth, scroll: root.scrollWidth, asked: performance.getEntriesByType('resource').map(r => r.name)
    .filter(name => !name.startsWith('data:')),
  broken: [...document.images].filter(i => !i.naturalWidth).length }, '*'); });
</script>"""
HOST = """<!doctype html><body><script>
const out = [];
addEventListener('message', e => { out.push(e.data); document.body.dataset.out = JSON.stringify(out); });
for (const [name, width, page] of PAGES) { const frame = document.createElement('iframe');
  frame.name = name; frame.width = width; frame.height = 900; frame.srcdoc = page; document.body.append(frame); }
</script>"""


def chromium(path, profile):
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", path.as_uri()], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_console_is_silent_and_the_page_forbids_itself_the_network(record, write, tmp_path):
    page = write_report(write(record))
    dom, console = chromium(page, tmp_path / "profile")
    assert record["name"] in dom
    assert console == []
    # Positive control: the same page with a remote image is blocked and reports an error.
    page.write_text(page.read_text().replace("</body>", '<img src="https://example.invalid/x.png"></body>'))
    _, console = chromium(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)


def test_page_asks_for_nothing_and_is_never_wider_than_its_window(record, write, tmp_path):
    record["warnings"] = ["a warning with " + "a_very_long_name_" * 12]
    record["models"]["distilled"]["title"] = "package.module:" + "Network" * 20
    record["data"]["classes"][0] = record["models"]["distilled"]["test"]["per_class"][0]["class"] = "class" * 30
    record["models"]["distilled"]["test"]["per_class"][0]["accuracy"] = 0.0
    text = write_report(write(record)).read_text()
    copy = (
        re.sub(r"<meta http-equiv[^>]*>", "", text)
        .replace("<head>", f"<head>{PROBE}")
        .replace("<details>", "<details open>")
    )
    wide = copy.replace("</body>", '<p style="width: 2000px">wide</p><img src="file:///absent.png"></body>')
    pages = [(f"{width}", width, copy) for width in (390, 1280)] + [("broken", 390, wide)]
    host = tmp_path / "host.html"
    host.write_text(HOST.replace("PAGES", json.dumps(pages).replace("</", "<\\/")))
    dom, _ = chromium(host, tmp_path / "profile")
    result = {one["name"]: one for one in json.loads(html.unescape(re.search(r'data-out="([^"]*)"', dom)[1]))}
    for width in (390, 1280):
        one = result[str(width)]
        assert one["errors"] == one["asked"] == []
        assert one["broken"] == 0
        assert one["scroll"] == one["client"] == width
    assert result["broken"]["scroll"] > result["broken"]["client"]
    assert result["broken"]["errors"]
