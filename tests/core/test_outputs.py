"""Outputs: selection of samples and their rows, detaching, copy and pickle."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs

KEEP = torch.tensor([True, False, True])


def test_a_row_is_a_sample_by_default():
    outputs = Outputs(logits=torch.arange(6.0).reshape(3, 2)).masked_select(KEEP)
    assert outputs.require_logits().tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert outputs.row_to_sample is None


def test_selecting_samples_selects_and_renumbers_their_rows():
    # Seven rows (pixels, tokens) of three samples, not in order, one sample with a single row.
    outputs = Outputs(
        logits=torch.arange(7.0).unsqueeze(1).expand(7, 2),
        row_to_sample=torch.tensor([2, 0, 1, 0, 2, 1, 2]),
        by_row={"box": torch.arange(7.0)},
        by_sample={"width": torch.arange(3.0)},
        extra={"head": torch.zeros(7, 2)},
    ).masked_select(KEEP)
    assert outputs.require_logits()[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0, 6.0]
    # Sample 2 is now the second one.
    assert outputs.row_to_sample.tolist() == [1, 0, 0, 1, 1]
    assert outputs.by_row["box"].tolist() == [0.0, 1.0, 3.0, 4.0, 6.0]
    assert outputs.by_sample["width"].tolist() == [0.0, 2.0]
    assert outputs.extra["head"].shape == (7, 2)  # not by row, though its length is the number of rows


def test_fields_by_sample_are_selected_by_sample():
    by_sample = torch.arange(3.0)
    outputs = Outputs(
        logits=torch.zeros(6, 2), row_to_sample=torch.tensor([0, 0, 1, 1, 2, 2]), spatial_logits=by_sample[:, None,
        None, None],
        embedding=by_sample[:, None], features={"mid": by_sample}, valid=torch.tensor([True, False, False]),
    ).masked_select(KEEP)  # fmt: skip
    assert (
        outputs.spatial_logits.flatten().tolist()
        == outputs.embedding.flatten().tolist()
        == outputs.features["mid"].tolist()
        == [0.0, 2.0]
    )
    assert outputs.valid.tolist() == [True, False]


def test_selecting_twice_is_selecting_once():
    outputs = Outputs(logits=torch.randn(5, 2), row_to_sample=torch.tensor([0, 0, 1, 2, 2]))
    twice = outputs.masked_select(torch.tensor([True, False, True])).masked_select(torch.tensor([False, True]))
    once = outputs.masked_select(torch.tensor([False, False, True]))
    assert torch.equal(twice.require_logits(), once.require_logits())
    assert twice.row_to_sample.tolist() == once.row_to_sample.tolist() == [0, 0]


def test_selecting_no_sample_leaves_no_row():
    outputs = Outputs(
        logits=torch.randn(4, 2), row_to_sample=torch.tensor([0, 0, 1, 1]), features={"mid": torch.randn(2, 3)}
    )
    empty = outputs.masked_select(torch.tensor([False, False]))
    assert empty.require_logits().shape == (0, 2)
    assert empty.feature("mid").shape == (0, 3)


def test_a_gradient_flows_through_a_selection():
    logits = torch.randn(3, 2, requires_grad=True)
    Outputs(logits=logits).masked_select(KEEP).require_logits().sum().backward()
    assert logits.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_detaching_cuts_every_tensor_off():
    attached = {name: torch.randn(3, 2, requires_grad=True) for name in ("logits", "embedding")}
    outputs = Outputs(
        **attached, features={"mid": attached["logits"] * 2}, extra={"total": attached["embedding"].sum()}
    ).detach()
    tensors = [outputs.logits, outputs.embedding, outputs.features["mid"], outputs.extra["total"]]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert torch.equal(outputs.logits, attached["logits"])


@pytest.mark.parametrize("transfer", [copy.deepcopy, lambda outputs: pickle.loads(pickle.dumps(outputs))])
def test_outputs_survive_copy_and_pickle(transfer):
    outputs = transfer(Outputs(logits=torch.ones(1, 2), features={"mid": torch.zeros(1)}))
    assert outputs.require_logits().tolist() == [[1.0, 1.0]]
    assert list(outputs.features) == ["mid"]
    assert transfer(Outputs()).extra == {}


def test_two_outputs_share_no_features():
    assert Outputs().features is not Outputs().features


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 4)])
def test_logits_that_are_not_rows_are_refused(shape):
    with pytest.raises(LimbeckError, match="let the task flatten pixels, anchors or tokens into rows"):
        Outputs(logits=torch.zeros(shape))


def test_missing_fields_are_errors_with_a_remedy():
    with pytest.raises(LimbeckError, match="use a loss on features"):
        Outputs().require_logits()
    with pytest.raises(LimbeckError, match=r"'layre2'; available: layer2, layer1\. Name layers in the distiller"):
        Outputs(features={"layer1": KEEP, "layer2": KEEP}).feature("layre2")
