"""Every public name says what it takes, what it gives, what it raises, and shows it by an example
that runs."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import skinterflow
import skinterflow.datasets
import skinterflow.interflow

DOCS = Path(__file__).parent.parent / "docs"
API_PAGES = sorted((DOCS / "api").glob("*.rst"))


def listed_objects():
    """What the pages of the API reference list: the names below the module that was named last."""
    module = None
    for page in API_PAGES:
        for line in page.read_text().splitlines():
            if found := re.match(r"\.\. (?:currentmodule|automodule):: (\S+)", line):
                module = importlib.import_module(found[1])
            elif found := re.fullmatch(r"    (\w+)", line):
                yield getattr(module, found[1])


def exported_objects():
    for module in (skinterflow, skinterflow.interflow):
        yield from (getattr(module, name) for name in module.__all__)
    yield from (
        each
        for each in vars(skinterflow.datasets).values()
        if inspect.isclass(each) and each.__module__ == "skinterflow.datasets"
    )


def public_objects():
    found = [*listed_objects(), *exported_objects()]
    return {
        f"{each.__module__}.{each.__qualname__}": each
        for each in found
        if inspect.isclass(each) or inspect.isfunction(each)
    }


PUBLIC = dict(sorted(public_objects().items()))
over_names = pytest.mark.parametrize("name", PUBLIC)


def sections(documented):
    """Sections of a numpydoc docstring by their titles; "" is what comes before the first."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(documented) or "", flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented_names(section):
    """Names at the left edge of a section: ``a, b : type`` documents both."""
    lines = re.findall(r"^([\w*][\w*, ]*?)(?: *:.*)?$", section, re.M)
    return {name.strip(" *") for line in lines for name in line.split(",")}


def arguments(public):
    """Parameters of a function or a constructor; those of exceptions, and catch-alls that classes
    inherit, are not one's own."""
    if inspect.isclass(public) and issubclass(public, Exception):
        return set()
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name for p in inspect.signature(public).parameters.values() if p.kind not in catch_all
    }


def is_record(public):
    """Classes without a constructor of their own, whose fields may be called attributes."""
    return inspect.isclass(public) and (
        issubclass(public, tuple) or dataclasses.is_dataclass(public)
    )


def public_functions(public):
    """The function itself, or the constructor and the methods that a class defines.

    What `dataclass` writes is not among them, nor are the methods of estimators: as in
    scikit-learn, they raise ValueError where a parameter is not what its type says.
    """
    if inspect.isfunction(public):
        return [public]
    if issubclass(public, BaseEstimator):
        return []
    members = [
        member
        for name, member in vars(public).items()
        if name[0] != "_" or name in ("__init__", "__post_init__")
    ]
    functions = [inspect.unwrap(member) for member in members if inspect.isfunction(member)]
    return [
        function
        for function in functions
        if function.__code__.co_filename == inspect.getfile(public)
    ]


def test_the_names_are_found():
    assert {
        "skinterflow.datasets.Moons",
        "skinterflow.interflow.ode.calibrate",
        "skinterflow.density.InterpolantFlowDensity",
    } < set(PUBLIC)
    assert documented_names("\na, b : int\n    words: more\n**kwargs\nplain\n") == {
        "a",
        "b",
        "kwargs",
        "plain",
    }


def test_the_reference_lists_each_name_once_in_a_group():
    listed = [
        f"{each.__module__}.{each.__qualname__}" if hasattr(each, "__qualname__") else repr(each)
        for each in listed_objects()
    ]
    assert len(listed) == len(set(listed)) > 90
    exported = {
        f"{each.__module__}.{each.__qualname__}"
        for each in exported_objects()
        if hasattr(each, "__qualname__")
    }
    assert exported <= set(listed)
    groups = re.findall(r"^    api/(\w+)$", (DOCS / "api.rst").read_text(), re.M)
    assert sorted(groups) == [page.stem for page in API_PAGES]


@over_names
def test_every_name_has_an_example(name):
    assert ">>> " in sections(PUBLIC[name]).get("Examples", "")


@over_names
def test_every_argument_is_documented(name):
    found = sections(PUBLIC[name])
    documented = documented_names(found.get("Parameters", ""))
    if is_record(PUBLIC[name]):
        documented |= documented_names(found.get("Attributes", ""))
    assert arguments(PUBLIC[name]) <= documented


@over_names
def test_every_function_says_what_it_returns_and_raises(name):
    public = PUBLIC[name]
    if inspect.isfunction(public) and inspect.get_annotations(public)["return"] not in (
        "None",
        None,
    ):
        assert {"Returns", "Yields"} & set(sections(public))
    for function in public_functions(public):
        if re.search(r"^ +raise ", inspect.getsource(function), re.M):
            assert "Raises" in sections(public if function.__name__[0] == "_" else function), (
                function.__qualname__
            )
