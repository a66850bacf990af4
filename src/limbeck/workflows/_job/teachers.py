"""A recipe's teachers as the run meets them: behind what translates their pictures and classes, and masked."""

from __future__ import annotations

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import TeacherSource
from limbeck.data import Data, Normalization
from limbeck.recipe.class_names import class_names
from limbeck.recipe.node_schema import Normalizing, Teacher
from limbeck.teachers import Lens, Partial, adapted, answered_samples, by_name

__all__ = ["partly", "translated"]


def translated(network: nn.Module, said: Teacher, data: Data, *, place: str) -> nn.Module:
    """``network`` as the run calls it: with its own size, normalisation and classes, where the recipe says some."""
    if said.answers == "finite":
        network.partial = True  # type: ignore[assignment]  # nn.Module is typed to hold tensors and modules only
    try:
        lens = Lens(given=data.normalization, wanted=_wanted(said, data), size=said.size, places=_places(said, data))
        return adapted(network, lens)
    except LimbeckError as error:
        raise LimbeckError(f"{place}: {error}") from error


def partly(source: TeacherSource, said: Teacher | None, data: Data, *, place: str) -> TeacherSource:
    """``source``, absent for the samples that the recipe says it has no answer for."""
    if said is None:  # an assistant
        return source
    places = _places(said, data) or ()
    unknown = [number for number, at in enumerate(places) if at < 0]
    try:
        listed = None if said.answers in (None, "finite") else answered_samples(str(said.answers))
    except LimbeckError as error:
        raise LimbeckError(f"{place}.answers: {error}") from error
    if listed is None and not unknown:
        return source
    if listed is not None and len(listed) <= int(data.train.number.max()):
        raise LimbeckError(
            f"{place}.answers: {said.answers} holds {len(listed)} samples, and the training part's numbers go up to "
            f"{int(data.train.number.max())}: give one for each, in the order of the source"
        )
    return Partial(source, samples=listed, unknown=unknown)


def _wanted(said: Teacher, data: Data) -> Normalization | None:
    channels = data.shape[0]
    if isinstance(said.normalize, Normalizing):
        if len(said.normalize.mean) != channels:
            raise LimbeckError(
                f"normalize has {len(said.normalize.mean)} channels, and the pictures have {channels}: give one mean "
                "and one std for each"
            )
        return Normalization(tuple(said.normalize.mean), tuple(said.normalize.std))
    if said.normalize in (None, "data"):
        return None
    return Normalization.imagenet(channels) if said.normalize == "imagenet" else Normalization.none(channels)


def _places(said: Teacher, data: Data) -> tuple[int, ...] | None:
    if said.classes is None or isinstance(said.classes, int):
        return None
    return by_name(class_names(said.classes, place="classes"), data.classes, missing=said.missing)
