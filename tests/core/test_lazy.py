"""The public names of packages that load on first use."""

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

import limbeck


@pytest.mark.parametrize("name", ["limbeck", "limbeck.data", "limbeck.tasks", "limbeck.teachers"])
def test_every_public_name_is_there_and_listed(name):
    package = import_module(name)
    assert package.__all__
    assert all(getattr(package, public) is not None for public in package.__all__)
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", ["limbeck.data", "limbeck.evaluation", "limbeck.teachers"])
def test_no_public_name_is_that_of_a_module(name):
    """Importing the module would replace the public object by the module."""
    modules = {module.name for module in pkgutil.iter_modules(import_module(name).__path__)}
    public = vars(import_module(f"{name}._exports"))
    assert not [module for module in modules if not isinstance(public.get(module, pkgutil), ModuleType)]


def test_modules_of_a_package_are_its_attributes():
    assert limbeck.evaluation.statistics.__name__ == "limbeck.evaluation.statistics"
    assert {"load_predictions", "mcnemar_test"} <= set(dir(limbeck.evaluation))


@pytest.mark.parametrize("name", ["limbeck.data", "limbeck.evaluation", "limbeck.tasks", "limbeck.teachers"])
def test_a_name_that_is_not_there_is_an_error(name):
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        import_module(name).nothing  # noqa: B018
    assert not hasattr(import_module(name), "_nothing")
