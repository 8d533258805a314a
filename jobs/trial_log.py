"""Trials as rows of a table: written in batches while a search runs, read by the search that resumes it."""

from __future__ import annotations

import json

from pyspark.sql import functions as F

from jobs.lake import Lake
from jobs.runs import Attempt, fingerprint
from models.trials import Trial
from transforms.contracts import Contract

# A Delta commit costs about a second: never one a trial. Little more work than this is lost with a killed search.
MOST_SECONDS_UNWRITTEN = 30.0


class TrialLog:
    """The trials of one search. `search` is its fingerprint: rows of other searches are neither read nor touched."""

    def __init__(self, lake: Lake, contract: Contract, attempt: Attempt, search: str) -> None:
        self._lake = lake
        self._contract = contract
        self._attempt = attempt
        self._search = search
        self._waiting: list[Trial] = []
        lake.create(contract)
        self._known = self._read()
        self._keys = {_key(trial) for trial in self._known}

    def known(self, candidate: str) -> list[Trial]:
        """Trials of a candidate that were written before."""
        return [trial for trial in self._known if trial.candidate == candidate]

    def add(self, trial: Trial) -> None:
        """Take a new trial; written with those waiting once they are enough work together."""
        self._waiting.append(trial)
        if sum(each.seconds for each in self._waiting) > MOST_SECONDS_UNWRITTEN:
            self.flush()

    def flush(self) -> None:
        """Write the trials that wait, in one commit."""
        if not self._waiting:
            return
        rows = [self._row(trial) for trial in sorted(self._waiting, key=lambda t: (t.candidate, t.point, t.fold))]
        frame = self._lake.spark.createDataFrame(rows, self._contract.schema).coalesce(1)
        # A batch is known by its content: a resumed search cuts the rest of its trials into other batches.
        batch = fingerprint([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
        transaction = self._attempt.transaction(self._contract, f"{self._search}:{batch}")
        # A trial that failed is tried again, and its row replaced; so are those of a stack that has other members now.
        write = self._lake.append if self._keys.isdisjoint(map(_key, self._waiting)) else self._lake.merge
        write(frame, self._contract, transaction)
        self._waiting = []

    def version(self) -> int:
        """Version of the table that holds all trials flushed so far."""
        return self._lake.version(self._contract) or 0

    def _read(self) -> list[Trial]:
        stored = self._lake.read(self._contract).where(F.col("search") == self._search).drop("search").collect()
        return [Trial(**{**row.asDict(), "parameters": json.loads(row["parameters"])}) for row in stored]

    def _row(self, trial: Trial) -> dict[str, object]:
        parameters = json.dumps(dict(trial.parameters), sort_keys=True, default=str)
        return {"search": self._search, **trial.__dict__, "parameters": parameters}


def _key(trial: Trial) -> tuple[str, int, int]:
    return trial.candidate, trial.point, trial.fold
