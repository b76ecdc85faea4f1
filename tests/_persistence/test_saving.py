"""A model is the same after every way of keeping it, and a file is that model or an error."""

import copy
import dataclasses
import functools
import os
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinterflow import InterpolantFlowDensity, InterpolantTransport, SavedModelError
from skinterflow._persistence.codec import decode, encode
from skinterflow._persistence.container import pack, unpack
from skinterflow.interflow import (
    Brownian,
    Compose,
    LearnedGamma,
    Linear,
    OptimalTransport,
    Standardize,
    Whiten,
)
from tests.helpers import QUICK, same
from tests.make_saved_models import DATA, ROWS, TINY, frame


class Own(Linear):
    """A path of the user's."""


SMALL = {**QUICK, "hidden_layer_sizes": (8, 8), "max_iter": 4}
MODELS = {
    "crossed": lambda X: InterpolantFlowDensity(**SMALL, time_beta=[1.0, 0.5], end_time=1.0).fit(X),
    "learned path": lambda X: InterpolantFlowDensity(
        **SMALL,
        interpolant="fourier",
        gamma=LearnedGamma(2),
        targets=("b", "eta"),
        base="learned",
        scaling="whiten",
        end_time=1.0,
    ).fit(X),
    "student of a frame": lambda X: (
        InterpolantFlowDensity(
            **{**SMALL, "random_state": np.random.RandomState(3)},
            early_stopping=False,
            student_layer_sizes=(8,),
            end_time=0.9,
            device=torch.device("cpu"),
        )
        .fit(pd.DataFrame(X, columns=list("abcd")))
        .set_output(transform="pandas")
    ),
    "bounds and a sitting": lambda X: InterpolantFlowDensity(
        **SMALL,
        early_stopping=True,
        end_time=1.0,
        bounds={0: (0, None), 3: (0.0, 9)},
        warm_start=True,
    ).fit(X),
    "transport with noise": lambda X: InterpolantTransport(
        **SMALL, gamma=Brownian(0.5), scaling=Compose([]), coupling=OptimalTransport(16)
    ).fit(X[:40], X[40:]),
    "mirror": lambda X: InterpolantTransport(
        **SMALL, interpolant="mirror", gamma="sine_squared"
    ).fit(X),
}


def attributes(model):
    """What belongs to the model: not the copies of it that are built for predictions."""
    return {name: value for name, value in vars(model).items() if name != "_cache"}


def by_file(model, path):
    model.save(path)
    return type(model).load(path)


def by_joblib(model, path):
    joblib.dump(model, path)
    return joblib.load(path, mmap_mode="r")


def by_skops(model, path):
    skops.io.dump(model, path)
    trusted = skops.io.get_untrusted_types(file=path)
    assert trusted == [f"{type(model).__module__}.{type(model).__name__}"]
    return skops.io.load(path, trusted=trusted)


WAYS = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "joblib": by_joblib,
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "copy": lambda model, path: copy.copy(model),
    "skops": by_skops,
    "file": by_file,
}


@pytest.fixture(scope="module")
def rows(iris):
    return iris[:60]


@pytest.fixture(scope="module")
def models(rows):
    """Fitted models by name, each fitted when it is first asked for."""
    return functools.cache(lambda name: MODELS[name](rows))


@pytest.fixture(scope="module")
def answers(models, rows):
    return functools.cache(lambda name: answers_of(models(name), rows))


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    models("learned path").save(path)
    return path


def answers_of(model, X):
    """What the model is asked."""
    names = getattr(model, "feature_names_in_", None)
    rows = X[:8] if names is None else pd.DataFrame(X[:8], columns=names)
    answers = [np.asarray(model.transform(rows)), np.asarray(model.inverse_transform(X[:8]))]
    if isinstance(model, InterpolantTransport):
        return [*answers, model.sample(rows, random_state=0, n_steps=3)]
    return [
        *answers,
        model.score_samples(rows),
        model.score_gradient(rows, t=0.5, method="path"),
        np.asarray(model.sample(5, random_state=0)),
    ]


def assert_equal(loaded, model):
    """Parameters and attributes."""
    assert same(loaded.get_params(), model.get_params())
    assert vars(loaded).keys() == vars(model).keys()
    assert same(*(encode(attributes(m), keep_objects=True) for m in (loaded, model)))
    assert (loaded._field is loaded._trained) == (model._field is model._trained)


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in MODELS for way in ("joblib", "skops", "file")]
    + [("transport with noise", way) for way in ("pickle", "deepcopy", "copy")],
)
def test_a_model_is_the_same(models, answers, rows, tmp_path, name, way):
    loaded = WAYS[way](models(name), tmp_path / "model")
    assert_equal(loaded, models(name))
    assert same(answers_of(loaded, rows), answers(name))


def test_shared_parts_stay_shared(models, saved):
    for way in ("pickle", "deepcopy"):
        loaded = WAYS[way](models("learned path"), None)
        assert loaded._field.path is loaded._path
    loaded = InterpolantFlowDensity.load(saved)
    assert loaded._field.path is loaded._path
    assert loaded._field is loaded._trained


@pytest.mark.parametrize("name", ["transport with noise", "bounds and a sitting"])
def test_training_goes_on_after_loading(models, answers, rows, tmp_path, name):
    data = (rows[:40], rows[40:]) if name == "transport with noise" else (rows,)
    loaded = by_file(models(name), tmp_path / "model")
    further = {"warm_start": True, "max_iter": 8}
    if name == "bounds and a sitting":  # with held-out rows, earlier weights may stay the best
        further["early_stopping"] = False
    again, continued = (
        m.set_params(**further).fit(*data) for m in (copy.deepcopy(models(name)), loaded)
    )
    assert_equal(continued, again)
    assert same(answers_of(continued, rows), answers_of(again, rows))
    assert not same(answers_of(continued, rows), answers(name))


def test_unfitted_estimators_are_pickled_but_not_saved(tmp_path):
    estimator = InterpolantFlowDensity(alpha=3.0, interpolant=Linear())
    for way in ("pickle", "deepcopy", "skops"):
        assert WAYS[way](estimator, tmp_path / "model").get_params() == estimator.get_params()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        estimator.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_pipelines(models, rows, tmp_path):
    pipeline = make_pipeline(StandardScaler().fit(rows), models("crossed"))
    rows = rows[:8]
    latent = pipeline.transform(rows)
    for way in ("pickle", "joblib"):
        np.testing.assert_array_equal(
            WAYS[way](pipeline, tmp_path / "model").transform(rows), latent
        )
    skops.io.dump(pipeline, tmp_path / "model")
    loaded = skops.io.load(
        tmp_path / "model", trusted=["skinterflow.density.InterpolantFlowDensity"]
    )
    np.testing.assert_array_equal(loaded.transform(rows), latent)


def test_requests_for_metadata_are_pickled_and_not_saved(models, tmp_path):
    model = copy.deepcopy(models("crossed"))
    with sklearn.config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        for way in ("pickle", "deepcopy"):
            assert str(WAYS[way](model, None).get_metadata_routing()) == str(
                model.get_metadata_routing()
            )
        loaded = by_file(model, tmp_path / "model")
    assert "_metadata_request" in vars(model).keys() - vars(loaded).keys()


def test_models_with_own_classes_are_pickled_and_not_saved(rows, tmp_path):
    model = InterpolantTransport(**SMALL, interpolant=Own()).fit(rows, rows)
    for way in ("pickle", "joblib", "deepcopy"):
        loaded = WAYS[way](model, tmp_path / "model")
        assert type(loaded._path.interpolant) is Own
        np.testing.assert_array_equal(loaded.transform(rows), model.transform(rows))
    with pytest.raises(
        TypeError,
        match=r"^interpolant is Own\(\), of the class .*test_saving\.Own.* use joblib\.dump",
    ):
        model.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    assert {name.rpartition(".")[2] for name in untrusted} == {"InterpolantTransport", "Own"}


def test_attributes_that_are_not_the_models_own(models, tmp_path):
    model = copy.deepcopy(models("mirror"))
    model._skl_callbacks = [print]
    assert not hasattr(by_file(model, tmp_path / "model"), "_skl_callbacks")
    model.note = "mine"
    with pytest.raises(ValueError, match="defines no attribute 'note', so that it cannot be saved"):
        model.save(tmp_path / "model")


def test_parameters_that_are_not_valid_are_not_saved(models, tmp_path):
    with pytest.raises(ValueError, match="'alpha' parameter"):
        copy.deepcopy(models("mirror")).set_params(alpha=-1.0).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_model_of_a_gpu_is_used_elsewhere(models, rows, tmp_path):
    model = copy.deepcopy(models("crossed")).set_params(device="cuda")
    loaded = by_file(model, tmp_path / "model")
    assert loaded.device == "cuda"
    with pytest.warns(UserWarning, match="used on the CPU"):
        scores = loaded.score_samples(rows[:8])
    np.testing.assert_array_equal(scores, models("crossed").score_samples(rows[:8]))
    here = InterpolantFlowDensity.load(tmp_path / "model", device="cpu")
    assert here.device == "cpu"
    np.testing.assert_array_equal(here.score_samples(rows[:8]), scores)


def damaged(data, random):
    """The data with a byte changed, parts exchanged, cut off, or longer."""
    kind, (low, high) = random.randint(4), sorted(random.choice(len(data), 2, replace=False))
    if kind == 0:
        return data[:low] + bytes([data[low] ^ random.randint(1, 256)]) + data[low + 1 :]
    if kind == 1:
        return data[:low]
    if kind == 2:
        return data + random.bytes(random.randint(1, 100))
    return data[high:] + data[low:high] + data[:low]


def test_damaged_files(saved, tmp_path):
    data, random = saved.read_bytes(), np.random.RandomState(0)
    header = int.from_bytes(data[:8], "little")
    assert 0.1 * len(data) < header < 0.9 * len(data)  # so that both halves are met
    path = tmp_path / "model"
    for _ in range(100):
        content = damaged(data, random)
        assert content != data
        path.write_bytes(content)
        with pytest.raises(
            SavedModelError, match=r"^InterpolantFlowDensity\.load\('.*model'\): .*damaged"
        ):
            InterpolantFlowDensity.load(path)


def test_other_files(models, saved, tmp_path):
    with pytest.raises(
        SavedModelError, match="holds InterpolantFlowDensity, not InterpolantTransport"
    ):
        InterpolantTransport.load(saved)
    for content in (b"", b"a", pickle.dumps(1), b"\xff" * 100, bytes(100)):
        path = tmp_path / "model"
        path.write_bytes(content)
        with pytest.raises(SavedModelError, match="was not saved by skinterflow, or it is damaged"):
            InterpolantFlowDensity.load(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        InterpolantFlowDensity.load(tmp_path / "nothing")
    with pytest.raises(
        IsADirectoryError, match="is a directory; give the file in it that the model was saved to"
    ):
        InterpolantFlowDensity.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a directory; give a file in it"):
        models("mirror").save(tmp_path)


def test_newer_releases(models):
    state = models("mirror").__getstate__()
    with pytest.raises(SavedModelError, match=r"pickled by a newer release.*upgrade"):
        InterpolantTransport.__new__(InterpolantTransport).__setstate__(
            {**state, "format_version": 99}
        )


def rewritten(saved, path, **changes):
    """A file with other attributes, and a digest that is right."""
    attributes = decode(*unpack(saved.read_bytes(), "InterpolantFlowDensity"))
    attributes = {
        name: value for name, value in {**attributes, **changes}.items() if value is not rewritten
    }
    path.write_bytes(pack(*encode(attributes), "InterpolantFlowDensity"))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"_field": rewritten},
        {"_calibration": rewritten},
        {"_field": 5},
        {"_source": Linear()},
        {"end_time_": "late"},
        {"n_features_in_": 7},
        {"n_features_in_": 4.0},
        {"__class__": "Evil"},
        {"__init__": 1},
        {"_doc_link_module": "os"},
        {"score_samples": 1},
        {"a b_": 1},
        {"alpha": -1.0},
        {"solver": "exec"},
        {"interpolant": OptimalTransport()},
        {"_path": Linear()},
    ],
    ids=lambda changes: " ".join(
        f"{name} {getattr(value, '__name__', None) or value}" for name, value in changes.items()
    ),
)
def test_hostile_attributes(saved, tmp_path, changes):
    path = rewritten(saved, tmp_path / "model", **changes)
    with pytest.raises(SavedModelError, match="are not those of a fitted InterpolantFlowDensity"):
        InterpolantFlowDensity.load(path)


def with_nan(module):
    """A copy of a module whose first number is none."""
    module = copy.deepcopy(module)
    next(iter(module.state_dict().values())).view(-1)[0] = torch.nan
    return module


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("end_time_", lambda value: -1.0),
        ("end_time_", lambda value: 1.5),
        ("end_time_", lambda value: float("nan")),
        ("n_iter_", lambda value: -1),
        ("_n_features_out", lambda value: 3),
        ("bounds_", lambda value: value[:2]),
        ("bounds_", lambda value: value[:, ::-1].copy()),
        ("bounds_", lambda value: value * np.nan),
        ("bounds_", lambda value: np.zeros_like(value)),
        ("bounds_", lambda value: "wide"),
        ("integer_features_", lambda value: value[:1]),
        ("integer_features_", lambda value: value.astype(float)),
        ("_field", with_nan),
        ("_trained", with_nan),
        ("_source", with_nan),
        ("_target", with_nan),
        ("_path", with_nan),
        ("_target", lambda value: Compose([Standardize(torch.zeros(4), -torch.ones(4))])),
        ("_target", lambda value: Compose([Standardize(torch.zeros(4), torch.zeros(4))])),
        ("_target", lambda value: Compose([Standardize(torch.zeros(3), torch.ones(3))])),
        ("_target", lambda value: Compose([Whiten(torch.eye(4), 2.0 * torch.eye(4))])),
        ("_calibration", lambda value: dataclasses.replace(value, quadrature=value.quadrature[:1])),
        (
            "_calibration",
            lambda value: dataclasses.replace(value, density=((float("nan"), 1.0),) * 3),
        ),
        (
            "_calibration",
            lambda value: dataclasses.replace(value, rule_errors=value.rule_errors[:, :1]),
        ),
    ],
)
def test_values_that_no_fit_gives(models, saved, tmp_path, name, change):
    value = change(copy.deepcopy(getattr(models("learned path"), name)))
    path = rewritten(saved, tmp_path / "model", **{name: value})
    with pytest.raises(SavedModelError, match=r"are not those of a fitted InterpolantFlowDensity"):
        InterpolantFlowDensity.load(path)


def test_bounds_agree_with_the_scaling(models, tmp_path):
    """Those of a file that says otherwise would give other masses."""
    models("bounds and a sitting").save(tmp_path / "saved")
    wider = models("bounds and a sitting").bounds_ * 2
    with pytest.raises(SavedModelError, match="bounds_ cannot be"):
        InterpolantFlowDensity.load(
            rewritten(tmp_path / "saved", tmp_path / "model", bounds_=wider)
        )
    open_sides = np.tile((-np.inf, np.inf), (4, 1))
    with pytest.raises(SavedModelError, match="bounds_ cannot be"):
        InterpolantFlowDensity.load(
            rewritten(tmp_path / "saved", tmp_path / "model", bounds_=open_sides)
        )


def test_infinite_weights(saved, tmp_path):
    field = decode(*unpack(saved.read_bytes(), "InterpolantFlowDensity"))["_field"]
    next(field.parameters()).data.view(-1)[0] = torch.inf
    with pytest.raises(SavedModelError, match="a field with infinite weights"):
        InterpolantFlowDensity.load(rewritten(saved, tmp_path / "model", _field=field))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("training", "number"), -1, "the counts of _progress cannot be"),
        (("training", "number"), 2.5, "the counts of _progress cannot be"),
        (("seed",), "a", "the counts of _progress cannot be"),
        (("n_no_change",), -1, "the counts of _progress cannot be"),
        (("history", "best_score"), float("nan"), "_progress cannot be NaN"),
        (
            ("training", "optimizers", 0, 0, "exp_avg"),
            torch.full((2,), torch.nan),
            "_progress cannot be NaN",
        ),
        (("training",), None, "are not those of a fitted"),
        (("best", 0), {"field": torch.tensor(torch.nan)}, "_progress cannot be NaN"),
    ],
)
def test_progress_that_no_fit_gives(models, tmp_path, place, value, message):
    """A model that is good as it is, and has nothing that a warm start could go on from."""
    model = models("bounds and a sitting")
    model.save(tmp_path / "saved")
    progress = copy.deepcopy(model._progress)
    functools.reduce(lambda part, key: part[key], place[:-1], progress)[place[-1]] = value
    with pytest.raises(SavedModelError, match=message):
        InterpolantFlowDensity.load(
            rewritten(tmp_path / "saved", tmp_path / "model", _progress=progress)
        )


def test_progress_of_another_model_is_nothing_to_go_on_from(models, rows):
    model = copy.deepcopy(models("bounds and a sitting"))
    before = dict(vars(model))
    model._progress["training"]["objective"]["field.out.bias"] = torch.zeros(0)
    with pytest.raises(
        ValueError, match=r"weights of other shapes than the model.*fit anew with warm_start=False"
    ):
        model.fit(rows)
    assert vars(model) == before


@pytest.mark.parametrize(
    "state",
    [{}, None, "state", {"format_version": 1}, {"format_version": "1", "tree": 1, "arrays": {}}],
)
def test_states_that_are_none(models, state):
    model = copy.deepcopy(models("mirror"))
    before = dict(vars(model))
    with pytest.raises(
        SavedModelError, match="This is not the state of a pickled InterpolantTransport"
    ):
        model.__setstate__(state)
    with pytest.raises(SavedModelError, match="holds no attributes"):
        model.__setstate__({"format_version": 1, "tree": [], "arrays": {}})
    assert vars(model) == before


def test_devices_and_sizes_of_loading(saved):
    with pytest.raises(ValueError, match="device='moon' is not a device"):
        InterpolantFlowDensity.load(saved, device="moon")
    size = saved.stat().st_size
    assert InterpolantFlowDensity.load(saved, max_bytes=size).end_time_ == 1.0
    with pytest.raises(SavedModelError, match="was not read, because the maximum is"):
        InterpolantFlowDensity.load(saved, max_bytes=size - 1)


@pytest.mark.parametrize("special", ["pipe", "/dev/zero"])
def test_special_files_are_neither_loaded_nor_checkpoints(rows, tmp_path, special):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SavedModelError, match="but a pipe, a device or a socket, and was not read"):
        InterpolantFlowDensity.load(tmp_path / special)
    with pytest.raises(
        FileExistsError, match="is neither a file nor a directory, and is not replaced"
    ):
        InterpolantFlowDensity(**SMALL, checkpoint=tmp_path / special).fit(rows)


def test_hostile_trees(tmp_path):
    path = tmp_path / "model"
    deep = 0
    for _ in range(500):
        deep = [deep]
    for tree in (
        None,
        [1],
        "x",
        {"dict": []},
        {"kept": 1},
        {"dict": [[1, 2]]},
        {"dict": [["alpha", {"object": {"name": "Popen"}}]]},
        deep,
    ):
        path.write_bytes(pack(tree, {}, "InterpolantFlowDensity"))
        with pytest.raises(SavedModelError, match="do not trust them"):
            InterpolantFlowDensity.load(path)


def test_unchanged_attributes_load(saved, tmp_path, rows):
    """The helper of the tests above changes nothing else."""
    assert InterpolantFlowDensity.load(rewritten(saved, tmp_path / "model")).score_samples(
        rows[:8]
    ).shape == (8,)


def test_interrupted_save_leaves_the_old_file(models, saved, tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(saved.read_bytes())

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Nothing was written"):
        models("crossed").save(path)
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model"]


def test_saving_twice_gives_the_same_bytes(models, saved, tmp_path):
    InterpolantFlowDensity.load(saved).save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == saved.read_bytes()


def test_a_density_of_release_0_1_loads():
    model = InterpolantFlowDensity.load(DATA / "density_0_1.safetensors")
    np.testing.assert_allclose(
        model.score_samples(frame()), [-2.00054545, -2.49226992, -2.62810771], atol=1e-5
    )
    assert list(model.feature_names_in_) == ["length", "weight"]
    assert (
        model.get_params().items()
        >= {
            **TINY,
            "interpolant": "fourier",
            "targets": ("b", "eta"),
            "device": torch.device("cpu"),
        }.items()
    )
    assert model._field is not model._trained
    np.testing.assert_allclose(model.inverse_transform(model.transform(frame())), ROWS, atol=1e-2)


def test_a_transport_of_release_0_1_loads():
    model = InterpolantTransport.load(DATA / "transport_0_1.safetensors")
    expected = [[0.51470630, 1.82636352], [1.56733296, 2.82998415], [-0.53024502, 1.35427394]]
    np.testing.assert_allclose(
        model.transform(ROWS), expected, atol=1e-4
    )  # the tolerance that it was saved with
    assert model.coupling == OptimalTransport(8)
    assert model.sample(ROWS, random_state=0, n_steps=3).shape == (3, 2)
