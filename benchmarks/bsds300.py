"""BSDS300 patches, 63-D: a long training with the torch floor, resumed from session to session,
beside published numbers.

    python benchmarks/bsds300.py --data-dir DIR --seconds 3600                    # train or go on,
    decay, score python benchmarks/bsds300.py --data-dir DIR --seconds 0 --test-rows 5000      #
    only score what the last session ended with python benchmarks/bsds300.py --data-dir DIR
    --seconds 0 --test-rows 2000 --dtype float32 --atol 0.05   # several times as fast

Data: of the 200 BSDS300 *training* images, the first 180 by name give 1,000,000 training patches;
the other 20 give 50,000 patches to watch the training by and 50,000 others to report on.  Nothing
is chosen by either.  A patch is 8x8 grey pixels at a random place, + U[0,1), / 256, minus its mean,
last pixel dropped; not standardised, so that nats are those of the published numbers.  Those are
for patches of the 100 *test* images, and images differ: the choice of twenty moves the
log-likelihood of a Gaussian between 92 and 108.  These twenty give it 97.6, near the published
96.67; "above the Gaussian", on the same patches, is the fairer comparison.  The flow's own
whitening (mean and covariance of the training patches) has its log-determinant in the result.

Training: the optimisers of `skinterflow.interflow.train`, batches of 1,024, Beta(1, 0.5) times, a
*constant* learning rate, and an average of the weights (EMA).  `train` itself plans its decay for a
given number of steps and keeps its optimisers to itself, so that it cannot be resumed; the loop
here is a plain one of its own.  The last part of a session (``--decay``) takes the learning rate
linearly to zero on the way to the model that is scored; it is not in the checkpoint, from which the
next session continues at the constant rate.  Files in ``benchmarks/results/bsds300/``:
``checkpoint.pt`` (every few minutes) and ``decayed.pt``.  The log-likelihoods of all sessions are
in ``benchmarks/results/bsds300-sessions.csv``.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from _common import RESULTS, Record, append_row, commit, environment, parser, report, write_table
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skinterflow.interflow import (
    Beta,
    Compose,
    Flow,
    PathObjective,
    Pushforward,
    ResidualMLP,
    Scaling,
    Solver,
    Standardize,
    Trigonometric,
    VelocityField,
    Whiten,
)
from skinterflow.interflow.training import make_optimizers

PUBLISHED = {
    "Gaussian": 96.67,
    "MAF": 155.69,
    "InterFlow": 156.22,
    "FFJORD": 157.40,
    "RQ-NSF (C)": 157.54,
    "NAF": 157.73,
    "TraDE": 160.01,
}
"""Log-likelihood, nats per patch of the 100 test images, as published."""
FOLDER = RESULTS / "bsds300"
_SIDE = 8
_N_TRAINING_IMAGES = 180
_N_HELD_OUT = 50_000
_EMA_DECAY = 0.999
_WARMUP_STEPS = 1_000
_WEIGHT_DECAY = 3e-5
_SCORED_ROWS = 64
_WATCHED_ROWS = 4_096


def patches(
    images: Sequence[NDArray[np.uint8]], n_rows: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Patches of randomly chosen images, in random order, shape (n, 63), and the number of the
    image of each."""
    image_of_row = random.integers(len(images), size=n_rows)
    rows = np.empty((n_rows, _SIDE**2 - 1), dtype=np.float32)
    for number, image in enumerate(images):
        mine = np.flatnonzero(image_of_row == number)
        windows = np.lib.stride_tricks.sliding_window_view(image, (_SIDE, _SIDE))
        top, left = (random.integers(size, size=len(mine)) for size in windows.shape[:2])
        x = windows[top, left].reshape(len(mine), -1)
        x = (x + random.random(x.shape)) / 256
        rows[mine] = (x - x.mean(axis=1, keepdims=True))[:, :-1]
    return rows, image_of_row


class Data:
    """Training patches, patches to watch by, patches to report on with the image of each."""

    def __init__(self, directory: Path, n_train: int) -> None:
        archive = np.load(directory / "bsds300_train_images.npz")
        images = [archive[name] for name in sorted(archive.files)]
        random = np.random.default_rng(0)
        self.train, _ = patches(images[:_N_TRAINING_IMAGES], n_train, random)
        self.watch, _ = patches(images[_N_TRAINING_IMAGES:], _N_HELD_OUT, random)
        self.test, self.image_of_test = patches(images[_N_TRAINING_IMAGES:], _N_HELD_OUT, random)
        self.mean = self.train.mean(axis=0, dtype=np.float64)
        self.covariance = np.cov(self.train, rowvar=False, dtype=np.float64)

    def whitening(self) -> Scaling:
        """Mean to zero and covariance to the identity, by the symmetric root."""
        variances, directions = np.linalg.eigh(self.covariance)
        forward = torch.from_numpy((directions / np.sqrt(variances)) @ directions.T)
        backward = torch.from_numpy((directions * np.sqrt(variances)) @ directions.T)
        return Compose(
            [
                Standardize(
                    torch.from_numpy(self.mean), torch.ones(len(forward), dtype=torch.float64)
                ),
                Whiten(forward, backward),
            ]
        )


class Training:
    """What is trained, and what a checkpoint holds.

    Attributes
    ----------
    n_steps : steps so far
    seconds : their wall time
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        self.settings = {
            "hidden": list(options.hidden),
            "batch_size": options.batch_size,
            "train_patches": options.train_patches,
        }
        field = ResidualMLP(_SIDE**2 - 1, options.hidden)
        self.objective = PathObjective(field, Trigonometric(), Beta(1.0, 0.5)).to(self.device)
        self.optimizers = make_optimizers(
            self.objective, field.hidden_weights(), (), options.learning_rate, _WEIGHT_DECAY
        )
        self.rates = [group["lr"] for group in self._groups()]
        self.averaged = AveragedModel(self.objective, multi_avg_fn=get_ema_multi_avg_fn(_EMA_DECAY))
        self.n_steps, self.seconds = 0, 0.0

    @property
    def field(self) -> VelocityField:
        """The field with averaged weights."""
        return cast(PathObjective, self.averaged.module).field

    def step(self, u: Tensor, factor: float) -> Tensor:
        """One gradient step on a batch of the rows `u`, at so much of the learning rate, and its
        loss."""
        x1 = u[torch.randint(len(u), (self.settings["batch_size"],), device=u.device)]
        for group, rate in zip(self._groups(), self.rates, strict=True):
            group["lr"] = factor * rate * min(1.0, (self.n_steps + 1) / _WARMUP_STEPS)
        loss = self.objective(torch.randn_like(x1), x1).mean()
        self.objective.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.averaged.update_parameters(self.objective)
        self.n_steps += 1
        return loss.detach()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all optimisers; asked for anew, because a restored optimiser has new
        ones."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def save(self, path: Path) -> None:
        """Write everything that a resumed run needs; a run that is killed meanwhile leaves the
        previous file."""
        state: dict[str, Any] = {
            name: getattr(self, name).state_dict() for name in ("objective", "averaged")
        }
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state |= {
            "settings": self.settings,
            "n_steps": self.n_steps,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a file of :meth:`save`."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["settings"] != self.settings:
            raise SystemExit(
                f"{path} was trained with {state['settings']}, not {self.settings}; give those "
                "options, or --fresh."
            )
        for name in ("objective", "averaged"):
            getattr(self, name).load_state_dict(state[name])
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        self.n_steps, self.seconds = state["n_steps"], state["seconds"]
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)


def advance(
    training: Training,
    u: Tensor,
    seconds: float,
    factor: Callable[[float], float],
    every: float,
    watch: Callable[[float], None],
) -> None:
    """Train for so many seconds; the factor of the learning rate is a function of the part of them
    that has passed.

    `watch` gets the mean loss every so many seconds and at the end; its own time is not training
    time.
    """
    losses: list[Tensor] = []
    elapsed, next_watch, clock = 0.0, every, time.perf_counter()
    while elapsed < seconds:
        losses.append(training.step(u, factor(elapsed / seconds)))
        if len(losses) % 20 == 0:
            losses[-1].item()  # a GPU runs ahead of the clock otherwise
        now = time.perf_counter()
        elapsed, clock, training.seconds = (
            elapsed + now - clock,
            now,
            training.seconds + now - clock,
        )
        if elapsed >= min(next_watch, seconds):
            watch(float(torch.stack(losses).mean()))
            losses.clear()
            next_watch, clock = elapsed + every, time.perf_counter()


def session(training: Training, u: Tensor, watched: Tensor, options: argparse.Namespace) -> None:
    """Train at the constant rate, keeping checkpoints, then decay."""
    checkpoint = FOLDER / "checkpoint.pt"

    def watch(loss: float) -> None:
        held_out = watched_loss(training, watched)
        report(
            {
                "steps": training.n_steps,
                "seconds": round(training.seconds),
                "loss": loss,
                "watched loss": held_out,
            }
        )

    def watch_and_save(loss: float) -> None:
        training.save(checkpoint)
        watch(loss)

    every = options.checkpoint_seconds
    advance(
        training, u, options.seconds * (1.0 - options.decay), lambda _: 1.0, every, watch_and_save
    )
    advance(training, u, options.seconds * options.decay, lambda part: 1.0 - part, every, watch)
    training.save(FOLDER / "decayed.pt")


@torch.no_grad()
def watched_loss(training: Training, u: Tensor) -> float:
    """Loss of the averaged weights on held-out patches, always at the same draws."""
    devices = [training.device] if training.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(1)
        return float(training.averaged.module(torch.randn_like(u), u).mean())


def log_density(
    field: VelocityField, scaling: Scaling, X: NDArray[np.float32], options: argparse.Namespace
) -> tuple[Tensor, int, float]:
    """Log-density of each patch, how many stayed above the solver's tolerance, and the seconds."""
    dtype = getattr(torch, options.dtype)
    field = copy.deepcopy(field).to(dtype)
    density = Pushforward(Flow(field, Solver(atol=options.atol)))
    started = time.perf_counter()
    values, n_unresolved = [], 0
    for x in torch.from_numpy(X.astype(np.float64)).split(_SCORED_ROWS):
        measured = density.measured_log_prob(scaling(x).to(options.device, dtype))
        values.append(measured.value.cpu() + scaling.log_abs_det(x))
        n_unresolved += int(measured.unresolved.sum())
    return torch.cat(values), n_unresolved, time.perf_counter() - started


def summary(method: str, values: NDArray[np.float64], image_of_row: NDArray[np.intp]) -> Record:
    """Mean, and its standard error over blocks of patches and over images (patches of an image are
    alike)."""
    sums = np.bincount(image_of_row, weights=values - values.mean())
    blocks = (
        values[: len(values) // _SCORED_ROWS * _SCORED_ROWS].reshape(-1, _SCORED_ROWS).mean(axis=1)
    )
    return {
        "method": method,
        "log-likelihood": round(float(values.mean()), 2),
        "standard error": round(float(blocks.std(ddof=1) / math.sqrt(len(blocks))), 2)
        if len(blocks) > 1
        else float("nan"),
        "over images": round(float(np.sqrt((sums**2).sum()) / len(values)), 2),
        "patches": len(values),
    }


def scored(
    training: Training, data: Data, scaling: Scaling, options: argparse.Namespace
) -> list[Record]:
    """Rows of the table: Gaussian and flow on the same patches; the flow's row goes into the file
    of all sessions, too."""
    X, images = (
        data.test[: options.test_rows],
        data.image_of_test[: options.test_rows],
    )  # in random order already
    gaussian = multivariate_normal(data.mean, data.covariance).logpdf(data.test)
    values, n_unresolved, seconds = log_density(training.field, scaling, X, options)
    gain = summary("flow", values.numpy() - gaussian[: len(X)], images)
    ours = {
        **summary("flow", values.numpy(), images),
        "above the Gaussian": gain["log-likelihood"],
        "its error": gain["standard error"],
        "its error over images": gain["over images"],
        "hidden layers": "x".join(map(str, options.hidden)),
        "steps": training.n_steps,
        "training, s": round(training.seconds),
        "unresolved": n_unresolved,
        "patches scored per s": round(len(X) / seconds, 1),
    }
    append_row(
        {**ours, "learning rate": options.learning_rate, "commit": commit()},
        RESULTS / "bsds300-sessions.csv",
    )
    return [
        summary("Gaussian, full covariance", gaussian, data.image_of_test),
        summary("Gaussian, on the flow's patches", gaussian[: len(X)], images),
        ours,
        *(
            {
                "method": f"{name} (published)",
                "log-likelihood": value,
                "above the Gaussian": round(value - PUBLISHED["Gaussian"], 2),
            }
            for name, value in PUBLISHED.items()
        ),
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--data-dir", type=Path, required=True, help="folder with bsds300_train_images.npz"
    )
    arguments.add_argument(
        "--seconds",
        type=float,
        default=3_600.0,
        help="training time of this session; 0 only scores",
    )
    arguments.add_argument(
        "--decay",
        type=float,
        default=0.2,
        help="last part of the session, in which the learning rate falls to zero",
    )
    arguments.add_argument("--hidden", nargs="+", type=int, default=[512] * 4, help="hidden layers")
    arguments.add_argument("--learning-rate", type=float, default=2e-3)
    arguments.add_argument("--batch-size", type=int, default=1_024)
    arguments.add_argument("--train-patches", type=int, default=1_000_000)
    arguments.add_argument("--test-rows", type=int, default=1_000, help="patches that are scored")
    arguments.add_argument(
        "--atol", type=float, default=1e-3, help="absolute tolerance of a log-density, nats"
    )
    arguments.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="precision of the scores"
    )
    arguments.add_argument("--checkpoint-seconds", type=float, default=180.0)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--fresh", action="store_true", help="start over")
    options = arguments.parse_args()
    data = Data(options.data_dir, options.train_patches)
    scaling = data.whitening()
    training = Training(options)
    start = FOLDER / ("checkpoint.pt" if options.seconds > 0 else "decayed.pt")
    if not options.fresh and start.exists():
        training.restore(start)
    if options.seconds > 0:
        u, watched = (
            in_flow_units(scaling, X).to(options.device)
            for X in (data.train, data.watch[:_WATCHED_ROWS])
        )
        session(training, u, watched, options)
    table = scored(training, data, scaling, options)
    print(f"{options.train_patches} training patches; {environment(options.device)}\n")
    write_table(table, "bsds300", arguments, options.device)


def in_flow_units(scaling: Scaling, X: NDArray[np.float32]) -> Tensor:
    return torch.cat([scaling(part.double()).float() for part in torch.from_numpy(X).split(2**16)])


if __name__ == "__main__":
    main()
