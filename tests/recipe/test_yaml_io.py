"""YAML is read safely, and whatever is wrong with it is one sentence with its place."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.recipe.yaml_io import dump_yaml, parse_yaml, read_source

_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=12)
_DATA = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_DATA)
def test_what_is_dumped_is_read_back(data):
    assert parse_yaml(dump_yaml(data)) == data


@pytest.mark.parametrize(
    "text", ["1e-3", "2026-12-01", "true", "no", "null", "~", "=", "<<", "1_0", "0x1f", ".nan", ""]
)
def test_text_that_looks_like_something_else_stays_text(text):
    assert parse_yaml(dump_yaml({"name": text})) == {"name": text}


def test_a_number_without_a_dot_is_a_number():
    assert parse_yaml("[1e-3, 3E5, -1e+2, 5.e1]") == [0.001, 300000.0, -100.0, 50.0]


def test_a_date_is_text():
    assert parse_yaml("name: 2026-12-01") == {"name": "2026-12-01"}


def test_plain_safe_yaml_reads_what_is_dumped():
    data = {"lr": 1e-05, "big": 1e30, "name": "1e-3", "many": [1, None, True, math.inf]}
    assert yaml.safe_load(dump_yaml(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch /tmp/limbeck-was-here']",
        "student: !!python/name:os.system",
        "student: !!python/object/new:os.system [echo]",
        "a: [1, {b: !!python/module:os ''}]",
        "a: !mine 3",
        "a: !!binary aGVsbG8=",
        "a: !!set {b}",
        "? !!python/object/apply:os.getcwd []\n: 1",
    ],
)
def test_a_tag_that_builds_something_is_refused(sentence, text):
    message = sentence(parse_yaml, text)
    assert "is refused" in message or "a key is one word" in message


def test_the_tag_is_named_with_its_place(sentence):
    message = sentence(parse_yaml, "a: 1\nb: !!python/name:os.system ''", "x.yaml")
    assert message.startswith("x.yaml, line 2, column 4: the tag !!python/name:os.system is refused")


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 1}", "- {'a': 1, a: 2}", "x: {<<: {b: 1}, <<: {c: 1}}"]
)
def test_a_key_that_stands_twice_is_refused(sentence, text):
    assert "is twice in one mapping" in sentence(parse_yaml, text)


def test_billion_laughs_are_refused_at_once(sentence):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    began = time.perf_counter()
    assert "aliases" in sentence(parse_yaml, "\n".join(lines))
    assert time.perf_counter() - began < 2


def test_merged_bombs_are_refused(sentence):
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    assert "aliases" in sentence(parse_yaml, "\n".join(lines))


def test_a_value_that_contains_itself_is_refused(sentence):
    assert "contains itself" in sentence(parse_yaml, "a: &a [1, *a]")
    assert "contains itself" in sentence(parse_yaml, "a: &a {b: {c: *a}}")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50 + "]" * 50,
        "[" * 20_000,
        "{a: " * 5_000,
        "\n".join(["x0: &x0 [0]"] + [f"x{i}: &x{i} [*x{i - 1}]" for i in range(1, 60)]),
    ],
)
def test_deep_nesting_is_refused(sentence, text):
    assert "nested more than 40 deep" in sentence(parse_yaml, text)


@pytest.mark.parametrize("text", ["a: !!int abc", "a: !!float x", "a: !!bool maybe", "a: " + "9" * 5_000])
def test_a_value_that_is_not_what_its_tag_says_is_refused(sentence, text):
    assert "not what its tag says" in sentence(parse_yaml, text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1, 2\nb: 3", "line 2"),
        ("a: b: c", "line 1, column 5"),
        ("\tseed: 1", "line 1"),
        ("a: *gone", "line 1, column 4"),
    ],
)
def test_bad_syntax_says_where(sentence, text, place):
    message = sentence(parse_yaml, text, "x.yaml")
    assert message.startswith("x.yaml is not valid YAML at " + place)


def test_two_documents_are_refused(sentence):
    assert "not valid YAML at line 3" in sentence(parse_yaml, "a: 1\n\n---\nb: 2")


def test_a_control_character_is_refused_with_its_line(sentence):
    assert "at line 2" in sentence(parse_yaml, "a: 1\nb: \x00")


def test_an_absent_file_names_the_nearest(sentence, tmp_path):
    (tmp_path / "digits.yaml").write_text("seed: 0")
    (tmp_path / "other.txt").write_text("")
    assert f"available in {tmp_path}: digits.yaml" in sentence(read_source, tmp_path / "digit.yaml")
    assert "the folder" in sentence(read_source, tmp_path / "gone" / "x.yaml")
    assert "is a folder" in sentence(read_source, tmp_path)
    assert "there is no recipe digtis" in sentence(read_source, "digtis")


def test_a_file_that_is_no_text_is_refused(sentence, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: \xff\xfe")
    assert "not UTF-8" in sentence(read_source, file)


def test_a_huge_file_is_refused_unread(sentence, tmp_path):
    file = tmp_path / "x.yaml"
    with file.open("wb") as handle:
        handle.truncate(5_000_000_000)
    assert "larger than 1 MB" in sentence(read_source, file)


def test_a_huge_text_is_refused(sentence):
    assert "larger than 1 MB" in sentence(read_source, "a: " + "x" * 1_000_001)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_is_no_recipe(sentence):
    assert "there is no recipe /dev/zero" in sentence(read_source, "/dev/zero")


def test_a_name_too_long_for_a_file_is_a_sentence(sentence):
    assert "recipe" in sentence(read_source, "x" * 5_000)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_sentence(sentence, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("seed: 0")
    file.chmod(0)
    assert "could not be read" in sentence(read_source, file)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 1")
    assert parse_yaml(*read_source(file)) == {"seed": 1}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from(list("ab:{}[],&*!|>-?#'\"\n 0e.%@`<=~")), max_size=40))
def test_any_text_is_data_or_a_sentence(text):
    try:
        parse_yaml(text)
    except LimbeckError as error:
        assert "\n" not in str(error)  # noqa: PT017
