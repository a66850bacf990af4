"""Control characters of names never reach the terminal."""

from __future__ import annotations

import os
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.models import load_weights, small_cnn
from limbeck.utils.console import escape_controls, print_text

HOSTILE = "fc\x1b]0;owned\x07\x9b2J\u202e\r\x08"


def test_controls_are_shown_and_lines_and_tabs_stay(capsys):
    print_text(f"a\tb\n{HOSTILE} é−")
    assert capsys.readouterr().out == "a\tb\nfc\\x1b]0;owned\\x07\\x9b2J\\u202e\\r\\x08 é−\n"
    assert escape_controls("plain − text ✓") == "plain − text ✓"
    print_text(os.fsdecode(b"caf\xe9"))  # stdout takes no such character
    assert capsys.readouterr().out == "caf\\udce9\n"


def test_tensor_names_of_a_weights_file_are_printed_without_escapes(tmp_path, capsys):
    save_file({HOSTILE: torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(LimbeckError, match="does not fit"):
        load_weights(small_cnn(width=2), tmp_path / "w.safetensors")
    (tmp_path / "r.yaml").write_text(
        "task: Classification\ndata: {use: Digits, num_samples: 100}\nstudent: {use: small_cnn, width: 2}\n"
        f"teachers: {{t: {{use: small_cnn, width: 2, weights: {tmp_path / 'w.safetensors'}}}}}\n"
        "stages: [{name: d, steps: 1, objective: {kd: KDLoss}}]\n"
    )
    assert main(["distill", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "names that the model does not have" in error
    assert "fc\\x1b]0;owned\\x07" in error
    assert not any(letter < " " for letter in error.rstrip("\n"))


def test_a_warning_of_a_command_is_printed_without_escapes(capsys, monkeypatch):
    def warn(**options):
        warnings.warn(f"the folder {HOSTILE}", stacklevel=1)

    monkeypatch.setattr("limbeck.report.render_json_schema", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *args: sys.stderr.write(warnings.formatwarning(message, *args[:3]))
        assert main(["record", "schema"]) == 0
    error = capsys.readouterr().err
    assert "the folder fc\\x1b]0;owned" in error
    assert "\x1b" not in error
