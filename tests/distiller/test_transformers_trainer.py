"""``Trainer(model=distiller)`` of transformers trains, evaluates, saves and resumes."""

import pytest
import torch

import limbeck
from limbeck.losses import CrossEntropyLoss, KDLoss

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'limbeck[text]'")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate, which is not installed: pip install accelerate")


def bert(seed, width):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def make_distiller(seed=0):
    return limbeck.Distiller(
        bert(seed, 8), bert(1, 16), objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)},
        task=limbeck.tasks.TextClassification(classes=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    ids = torch.randint(4, 20, (64, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(6, dtype=torch.long)
    return [{"input_ids": row, "attention_mask": mask, "labels": (row[0] > 11).long()} for row in ids]


def make_trainer(model, folder, rows, *, batch_size=16, **settings):
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=6, per_device_train_batch_size=batch_size, learning_rate=0.01,
        gradient_accumulation_steps=16 // batch_size, save_steps=3, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False, label_names=["labels"],
    )  # fmt: skip
    return transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, **settings)


def test_the_trainer_trains_evaluates_saves_and_resumes(rows, tmp_path):
    distiller = make_distiller()
    initial = {name: tensor.clone() for name, tensor in distiller.named_parameters()}
    teacher = {name: tensor.clone() for name, tensor in distiller.teachers["teacher"].network.state_dict().items()}
    trainer = make_trainer(distiller, tmp_path, rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert any(not torch.equal(tensor, initial[name]) for name, tensor in distiller.named_parameters())
    unchanged = distiller.teachers["teacher"].network.state_dict()
    assert all(torch.equal(tensor, unchanged[name]) for name, tensor in teacher.items())
    expected = float(distiller.eval()({key: torch.stack([row[key] for row in rows]) for key in rows[0]}).total.detach())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)

    resumed = make_distiller(seed=3)
    make_trainer(resumed, tmp_path, rows).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    states = distiller.state_dict(), resumed.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_trainer_measures_the_student(rows, tmp_path):
    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    student = make_distiller().student.eval()
    measured = make_trainer(student, tmp_path, rows, compute_metrics=accuracy).evaluate()["eval_accuracy"]
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    labels = batch.pop("labels")
    assert measured == float((student(**batch).logits.argmax(dim=1) == labels).float().mean())


def test_accumulated_batches_have_the_gradient_of_one(rows, tmp_path):
    """The Trainer divides the loss by the number of accumulated batches, since it is a mean over each."""
    weights = []
    for batch_size in (16, 4):
        distiller = make_distiller()
        trainer = make_trainer(distiller, tmp_path / str(batch_size), rows, batch_size=batch_size)
        trainer.args.max_steps = 1
        trainer.args.max_grad_norm = 0.0
        trainer.optimizer = torch.optim.SGD(distiller.parameters(), lr=1.0)
        trainer.train()
        weights.append(distiller.student.classifier.weight.detach().clone())
    torch.testing.assert_close(*weights)
