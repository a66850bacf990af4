"""The Asterisk prompts in five languages as a folder with `transcripts.tsv`, for the data source SpeechTextPairs.

The recordings and transcripts are Debian packages (CC BY-SA 3.0). In a folder PACKAGES:

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-core-sounds-{en,es,fr,it,ru}
    for package in *.deb; do dpkg-deb -x $package .; done

`python benchmarks/asterisk_folder.py PACKAGES DEST` links the clips into DEST and writes the table. Left out are tones,
which are transcribed in brackets, and remarks in brackets inside of a text.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
from pathlib import Path

LANGUAGES = ("en", "es", "fr", "it", "ru")
LINE = re.compile(r"([\w/.-]+)\s*:\s*(.*)")
REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")


def read_transcripts(path: Path) -> dict[str, str]:
    """The text of each key; the first one, where a key is there twice."""
    texts: dict[str, str] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
        match = None if line.startswith(";") else LINE.fullmatch(line.strip())
        if match is None:
            continue
        text = " ".join(REMARK.sub(" ", match[2]).replace("…", "...").strip(' ."').split())
        if any(char.isalpha() for char in text):
            texts.setdefault(match[1], text)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("dest", type=Path)
    options = parser.parse_args()
    rows = ["key\tlanguage\tfile\ttext"]
    for language in LANGUAGES:
        share = options.packages / "usr/share"
        name = f"asterisk-core-sounds-{language}"
        texts = read_transcripts(share / "doc" / name / f"core-sounds-{language}.txt.gz")
        (voice,) = (share / "asterisk/sounds").glob(f"{language}_*")
        clips = {path.relative_to(voice).with_suffix("").as_posix(): path for path in sorted(voice.rglob("*.wav"))}
        for key in sorted(texts):
            file = ""
            if key in clips:
                file = f"{language}/{key}.wav"
                (options.dest / file).parent.mkdir(parents=True, exist_ok=True)
                if not (options.dest / file).exists():
                    os.link(clips[key].resolve(), options.dest / file)
            rows.append(f"{key}\t{language}\t{file}\t{texts[key]}")
    (options.dest / "transcripts.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(rows) - 1} texts in {options.dest}")


if __name__ == "__main__":
    main()
