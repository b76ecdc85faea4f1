"""The figures of the quick start, by the functions of ``examples/quickstart.py``: held-out
log-likelihoods, and how long it all takes.

    python benchmarks/quickstart.py

"Processor minutes" are those of all threads together, plot included: on a machine that is shared
they say more than the clock does.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from _common import parser, write_table
from sklearn.datasets import load_breast_cancer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
mpl.use("Agg")

from quickstart import held_out_log_likelihoods, plot, standardised_split


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    torch.set_num_threads(1)  # as the example does
    data = load_breast_cancer()
    train, test, *_ = standardised_split(data.data)
    clock, processor = time.perf_counter(), time.process_time()
    scores, density = held_out_log_likelihoods(train, test)
    plot(density, test, data.feature_names)
    times = {
        "minutes": round((time.perf_counter() - clock) / 60, 1),
        "processor minutes": round((time.process_time() - processor) / 60, 1),
    }
    about = {"held-out rows": len(test), "columns": test.shape[1], **times}
    rows = [
        {"method": name, "log-likelihood": round(float(score), 2), **about}
        for name, score in scores.items()
    ]
    write_table(rows, "quickstart", arguments)


if __name__ == "__main__":
    main()
