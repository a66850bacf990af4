"""Caches that someone sent: links are not followed, and only files that limbeck wrote are removed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cache_registry import list_caches, lock_cache, remove_cache
from limbeck.teachers.cache.layout import RecordField, RecordLayout
from limbeck.teachers.cache.store import RecordStore
from limbeck.workflows.teacher_cache import prune_caches


@pytest.fixture
def cache(tmp_path):
    """The folder of a cache with rows of its own, and a file outside."""
    folder = tmp_path / "outputs" / "abc"
    (folder / "rows-8").mkdir(parents=True)
    layout = RecordLayout(CacheConfig(), (RecordField("logits", "float32", (4,)),))
    metadata = {"teacher": "t", "num_samples": 2, "num_views": 1, "layout": layout.to_dict()}
    (folder / "layout.json").write_text(json.dumps(metadata))
    for name in ("index.json", "shard-00000.bin", "rows-8/shard-00000.bin", ".index.json.12.partial", ".lock"):
        (folder / name).write_text("x")
    (tmp_path / "victim").write_text("kept")
    return folder


def test_a_cache_is_removed_whole(cache):
    (entry,) = list_caches(cache.parent)
    remove_cache(entry)
    assert not cache.exists()


def test_foreign_files_and_what_links_lead_to_stay(cache, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shard-00000.bin").write_text("kept")
    (cache / "notes.txt").write_text("kept")
    (cache / "rows-8" / "thesis.tex").write_text("kept")
    (cache / "rows-16").symlink_to(outside)
    (cache / "shard-00001.bin").symlink_to(tmp_path / "victim")
    prune_caches(all_caches=True, root=cache.parent)
    assert "keeps files that limbeck did not write" in capsys.readouterr().out
    assert sorted(path.name for path in cache.rglob("*")) == ["notes.txt", "rows-16", "rows-8", "thesis.tex"]
    assert {path.read_text() for path in (tmp_path / "victim", outside / "shard-00000.bin")} == {"kept"}
    assert list_caches(cache.parent) == []


def test_a_linked_folder_is_no_cache_of_this_root(cache, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "linked").symlink_to(cache)
    prune_caches(all_caches=True, root=tmp_path / "other")
    assert capsys.readouterr().out == "nothing to remove\n"
    assert (cache / "layout.json").exists()


def test_a_lock_that_is_a_link_is_refused(cache, tmp_path):
    (cache / ".lock").unlink()
    (cache / ".lock").symlink_to(tmp_path / "victim")
    (entry,) = list_caches(cache.parent)
    for use in (lambda: lock_cache(cache), lambda: remove_cache(entry)):
        with pytest.raises(LimbeckError, match=r"abc/.lock must be a file .*, got a link: remove it"):
            use()
    assert (tmp_path / "victim").read_text() == "kept"


def test_outputs_are_not_written_through_a_link(cache, tmp_path):
    (cache / "shard-00000.bin").unlink()
    (cache / "shard-00000.bin").symlink_to(tmp_path / "victim")
    store = RecordStore(cache, record_bytes=4, num_records=2)
    with pytest.raises(LimbeckError, match=r"shard-00000.bin could not be written"):
        store.write(np.array([0]), np.zeros((1, 4), np.uint8))
    assert (tmp_path / "victim").read_text() == "kept"


def test_deep_json_is_no_cache(cache):
    (cache / "layout.json").write_text("[" * 100_000)
    assert list_caches(cache.parent) == []
