"""Successive halving of boosted trees, 5 folds x 12 points, against the whole search: the same winner, in how much less time.

    ours        models.tuning.tune with halving 2: all points an eighth of their rounds, the six that promise most a quarter, three a half, one all
                of them; at each step with those that cannot be told from the last one
    peer        the same search without halving

Both sides take turns over other rows for each of 20 seeds. `same` counts equal winners; `as_good` those whose mean metric in the whole
search is no further from the best than the standard error of the best over its folds.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from conf.schema import Environment
from jobs import session
from models.folds import Folds
from models.tuning import Search, tune
from scripts import paired, tuning_bench
from scripts.benches import trees_cv

SIZES = {"small": (5_000, 10, 20), "full": (50_000, 30, 200)}
SEEDS = 20
TARGETS = {"as_good": 19, "ratio": 2.0}


def whole_search(rounds: int, cores: int) -> Search:
    """All points to the end."""
    return Search(*trees_cv.problem(rounds), Folds(tuning_bench.FOLDS, "fold"), parallelism=cores)


def main() -> int:
    """Run the benchmark; a seed is a pair."""
    given = paired.arguments(__doc__)
    count, features, rounds = SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench halving")
    whole = whole_search(rounds, spark.sparkContext.defaultParallelism)
    halved = replace(whole, halving=2)
    ours_s, peer_s, same, as_good, worst = [], [], 0, 0, 0.0
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder), seed=seed))
            ours, mine = paired.seconds(partial(tune, halved, frame))
            peer, all_of_them = paired.seconds(partial(tune, whole, frame))
            frame.unpersist()
        won, best = mine.require_best(), all_of_them.require_best()
        behind = float(all_of_them.mean[best] - all_of_them.mean[won])
        noise = float(all_of_them.std[best]) / math.sqrt(tuning_bench.FOLDS - 1)
        same, as_good, worst = same + (won == best), as_good + (behind <= noise), max(worst, behind)
        ours_s.append(ours)
        peer_s.append(peer)
        paired.told(
            f"seed {seed:<2}    ours {ours:>7.2f} s  peer {peer:>7.2f} s  {peer / ours:>5.1f}x  behind {behind:.5f}, noise {noise:.5f}"
        )
    spark.stop()
    ratio = statistics.median(peer / ours for ours, peer in zip(ours_s, peer_s, strict=True))
    found: dict[str, Any] = {
        "bench": "halving",
        "size": {"name": given.size, "rows": count, "features": features, "rounds": rounds, "folds": tuning_bench.FOLDS, "points": len(whole.grid)},
        "ours_s": statistics.median(ours_s), "peer_s": statistics.median(peer_s), "ratio": ratio,
        "scaling": {"seeds": SEEDS},
        "quality": {"same": same, "as_good": as_good, "furthest_behind": worst}, "ok": as_good >= TARGETS["as_good"],
        "targets_met": {"as_good": as_good >= TARGETS["as_good"], "ratio": ratio >= TARGETS["ratio"]},
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
