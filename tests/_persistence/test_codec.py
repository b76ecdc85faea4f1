"""Objects as plain data: the way there and back, and data that nobody should build from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinterflow import SavedModelError
from skinterflow._persistence.codec import decode, encode
from skinterflow._persistence.container import pack, unpack
from skinterflow._persistence.registry import BY_CLASS_NAME
from skinterflow.interflow import (
    Beta,
    HeadedDrift,
    Linear,
    OptimalTransport,
    ResidualMLP,
    SharedTrunk,
    StochasticInterpolant,
)
from tests.helpers import EXAMPLES, noisy_path, same, with_weights


def through_a_file(value):
    return decode(*unpack(pack(*encode(value), "value"), "value"))


def test_every_class_has_an_example():
    assert EXAMPLES.keys() == BY_CLASS_NAME.keys()


@pytest.mark.parametrize("name", BY_CLASS_NAME)
def test_objects_come_back(name):
    with torch.random.fork_rng():
        original = EXAMPLES[name]()
    loaded = through_a_file(original)
    assert type(loaded).__name__ == name
    assert same(loaded, original)
    assert repr(loaded) == repr(original)
    if isinstance(original, torch.nn.Module):
        assert same(dict(loaded.state_dict()), dict(original.state_dict()))
        assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


shapes = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)
numbers = hnp.arrays(
    st.sampled_from([bool, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64]),
    shapes,
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        [torch.device("cpu"), torch.device("cuda:1"), torch.float32, torch.bfloat16, Path("a/b")]
    ),
    numbers,
    numbers.map(lambda array: array.ravel()[0]),
    numbers.map(lambda array: torch.from_numpy(array.copy())),
    hnp.arrays(
        st.sampled_from([object, "U5"]),
        shapes,
        elements=st.text("ab\N{GREEK SMALL LETTER ETA}", max_size=5),
    ),
    st.integers(0, 9).map(np.random.RandomState),
    st.sampled_from([Beta(1.0, 0.5), Linear(), OptimalTransport(3)]),
)
keys = st.one_of(
    st.text(max_size=3), st.integers(), st.sampled_from(["", "__metadata__", "a.b", "tuple"])
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=8,
)


@given(values)
def test_values_come_back(value):
    assert same(through_a_file(value), value)
    assert same(decode(*encode(value, keep_objects=True), keep_objects=True), value)


def test_strings_and_arrays_of_other_memory():
    assert same(through_a_file([np.str_("a"), np.array(["b"])[0]]), ["a", "b"])
    strings = np.array([["ab", "c"], ["", "\N{GREEK SMALL LETTER ETA}"]])
    for array in (
        strings.T,
        strings.astype(">U3"),
        np.arange(6).reshape(2, 3).T,
        np.arange(3)[::-1],
        np.arange(3, dtype=">i4"),
    ):
        loaded = through_a_file(array)
        assert np.array_equal(loaded, array)
        assert loaded.dtype == array.dtype.newbyteorder("=")


def test_shared_objects_stay_shared():
    path = noisy_path()
    with torch.random.fork_rng():
        drift = HeadedDrift(SharedTrunk(2, 2, (4,)), ("v", "eta"), path)
    loaded = through_a_file({"path": path, "drifts": [drift, drift]})
    assert loaded["drifts"][0] is loaded["drifts"][1]
    assert loaded["drifts"][0].path is loaded["path"]
    assert loaded["path"] is not path


def test_what_is_learned_and_what_was_looked_at_comes_back():
    path = noisy_path()
    path.interpolant.alpha_modes.requires_grad_(False)
    interior = path.interior
    with_weights(path, seed=1)
    loaded = through_a_file(path)
    assert [name for name, parameter in loaded.named_parameters() if parameter.requires_grad] == [
        "interpolant.beta_modes",
        "gamma.modes",
    ]
    assert loaded.interior == interior != with_weights(noisy_path(), seed=1).interior
    loaded.gamma.modes.data.zero_()
    assert path.gamma.modes.any()  # memory of its own


def test_the_state_of_an_optimizer_comes_back():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    loaded = through_a_file(optimizer.state_dict())
    assert same(loaded, optimizer.state_dict())
    torch.optim.AdamW([weight]).load_state_dict(loaded)


class Own(Linear):
    """A user's path."""


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Own(), "Own"),
        (print, "print"),
        (1j, "complex"),
        (np.array([1j]), "array"),
        (np.array([1, "a"], dtype=object), "array"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "masked"),
        (torch.tensor([1j]), "tensor"),
        (torch.tensor([1.0], dtype=torch.bfloat16), "tensor"),
        ({None: 1}, "dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_refused_or_kept(value, name):
    with pytest.raises(TypeError, match=rf"(?s)fitted\.path is .*{name}.* use joblib\.dump"):
        encode({"fitted": {"path": value}})
    kept = decode(*encode({"fitted": [value]}, keep_objects=True), keep_objects=True)["fitted"][0]
    assert kept is value
    inside = decode(*encode(StochasticInterpolant(Own()), keep_objects=True), keep_objects=True)
    assert isinstance(inside.interpolant, Own)


def field(arrays=None, **changes):
    """Data of a field, with changes, and its arrays."""
    with torch.random.fork_rng():
        tree, own = encode({"field": ResidualMLP(3, (4, 5))})
    content = tree["dict"][0][1]["object"]
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return tree, own if arrays is None else {**own, **arrays}


def nested(depth):
    tree = 0
    for _ in range(depth):
        tree = {"tuple": [tree]}
    return tree


def random_state(position):
    tree, arrays = encode(np.random.RandomState(0))
    state = tree["random_state"]["dict"]
    dict(state)["state"]["dict"][1][1] = position
    return tree, arrays


HOSTILE = {
    "a class of others": field(name="os.system"),
    "the name of a module": field(name="nn.Module"),
    "no name": ({"object": {}}, {}),
    "an unknown kind": ({"eval": "1"}, {}),
    "two kinds": ({"float": "nan", "tuple": []}, {}),
    "no kind": ({}, {}),
    "an object that is kept": ({"kept": 1}, {}),
    "something that JSON lacks": (print, {}),
    "itself": ({"same": 0}, {}),
    "no number": ({"float": "1"}, {}),
    "no array": ({"array": "x"}, {}),
    "no scalar": ({"scalar": "x"}, {"x": np.zeros(2)}),
    "no device": ({"device": "moon"}, {}),
    "no dtype": ({"dtype": "save"}, {}),
    "no string": ({"strings": {"values": [1], "shape": [1]}}, {}),
    "no character": ({"unicode": "x"}, {"x": np.array([[2**31]], dtype=np.uint32)}),
    "no width": ({"unicode": "x"}, {"x": np.zeros((3, 0), dtype=np.uint32)}),
    "no pairs": ({"dict": [1]}, {}),
    "a key twice": ({"dict": [["a", 1], ["a", 2]]}, {}),
    "a key of another kind": ({"dict": [[None, 1]]}, {}),
    "deep": (nested(100_000), {}),
    "huge layers": field(arguments={"hidden_layer_sizes": [10**12, 10**12]}),
    "endless layers": field(arguments={"hidden_layer_sizes": [10**30]}),
    "negative layers": field(arguments={"hidden_layer_sizes": [4, -5]}),
    "layers of strings": field(arguments={"hidden_layer_sizes": "ab"}),
    "a layer of true": field(arguments={"hidden_layer_sizes": [True, 5]}),
    "no features": field(arguments={"n_features": None}),
    "an unknown activation": field(arguments={"activation": "exec"}),
    "another argument": field(arguments={"forward": 1}),
    "no weights": field(weights=None),
    "other weights": field(weights={"out.more": "field.out.bias"}),
    "weights of another size": field({"field.out.bias": np.zeros(1, dtype=np.float32)}),
    "weights of another kind": field({"field.out.bias": np.zeros(3, dtype=np.int32)}),
    "another attribute": field(cached={"forward": 1}),
    "no arrays": (encode({"path": noisy_path()})[0], {}),
    "a random state elsewhere": random_state(10**9),
    "a random state before": random_state(-1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data(name):
    tree, arrays = HOSTILE[name]
    with pytest.raises(
        SavedModelError, match=r"cannot be built from the data|which skinterflow .* cannot load"
    ):
        decode(tree, arrays)


def test_the_field_of_the_hostile_data_is_sound():
    assert decode(*field())["field"].n_features == 3


@pytest.mark.parametrize("wrong", ["x", [], None, True])
def test_types_of_arguments_are_checked(wrong):
    with pytest.raises(SavedModelError, match="a should be <class 'float'>"):
        decode(
            {"object": {"name": "Brownian", "arguments": {"a": wrong}, "cached": {}, "number": 0}},
            {},
        )


def test_a_copy_shares_no_memory():
    originals = [EXAMPLES["Standardize"](), np.zeros(3), torch.zeros(3)]
    _, array, tensor = decode(*encode(originals))
    array += 1
    tensor += 1
    assert not originals[1].any()
    assert not originals[2].any()


def test_layers_without_weights_are_not_built():
    with pytest.raises(SavedModelError, match="a ResidualMLP has more layers than weights"):
        decode(*field(arguments={"hidden_layer_sizes": [1] * 10_000}))
