"""What Spark has counted of its own work, by the store behind its web pages; it is filled with the pages off too.

Figures of a Spark stage are sums over its tasks. Spark keeps those of the newest `spark.ui.retainedStages` stages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from py4j.java_gateway import is_instance_of
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

STAGE, TASK = "org.apache.spark.status.StageDataWrapper", "org.apache.spark.status.TaskDataWrapper"
QUERY = "org.apache.spark.sql.execution.ui.SQLExecutionUIData"
GRAPH = "org.apache.spark.sql.execution.ui.SparkPlanGraphWrapper"
STAGE_ID, PEAK_MEMORY = "stageId", "pem"  # names of indices: of the wrapper, and TaskIndexNames.PEAK_MEM
# Class -> its fields that are no figures: texts, and lists as long as a plan. They are most of what Spark keeps of a stage.
UNREAD = {
    STAGE: ("jobIds", "locality"),
    "org.apache.spark.status.api.v1.StageData": (
        *("name", "description", "details", "failureReason", "rddIds", "accumulatorUpdates", "killedTasksSummary"),
        *(
            "tasks",
            "executorSummary",
            "peakExecutorMetrics",
            "taskMetricsDistributions",
            "executorMetricsDistributions",
        ),
    ),
    QUERY: ("details", "physicalPlanDescription", "modifiedConfigs", "jobs", "metrics"),
    "org.apache.spark.status.api.v1.ExecutorSummary": (
        *("executorLogs", "memoryMetrics", "peakMemoryMetrics", "attributes", "resources", "excludedInStages"),
        *("blacklistedInStages", "removeReason"),
    ),
}
SECONDS_TO_CATCH_UP = 10
MOST_ASKED = 8

log = logging.getLogger(__name__)

# Of one attempt of a Spark stage, by the names of Spark's REST interface (`StageData`): times in ms, cpu time in ns.
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Executor:
    """Cores of one executor and when it held them, in seconds since 1970; `until` is None while it does. Local mode has one.

    `tasks` are those that succeeded on it so far.
    """

    name: str
    tasks: int
    cores: int
    since: float
    until: float | None


class StatusStore:
    """Spark's `AppStatusStore` of the running application."""

    def __init__(self, spark: SparkSession) -> None:
        assert spark._jvm is not None
        self._jvm: Any = spark._jvm
        self._gateway: Any = spark._sc._gateway
        context: Any = spark.sparkContext._jsc.sc()
        self._bus, self._status = context.listenerBus(), context.statusStore()
        self._store = self._status.store()

    def newest_stage(self) -> int:
        """Number of the Spark stage that was planned last, -1 before the first. Spark numbers stages in the order of their jobs."""
        self._catch_up()
        found = self._view(STAGE).index(STAGE_ID).reverse().max(1).iterator()
        return int(found.next().info().stageId()) if found.hasNext() else -1

    def stages_after(self, number: int) -> list[Figures]:
        """Every attempt of the later Spark stages that is still kept; skipped ones too."""
        self._catch_up()
        return [wrapper["info"] for wrapper in self._read(self._view(STAGE).index(STAGE_ID).first(number + 1))]

    def newest_query(self) -> int:
        """Number of the query of Spark SQL that began last, -1 before the first."""
        self._catch_up()
        found = self._view(QUERY).reverse().max(1).iterator()
        return int(found.next().executionId()) if found.hasNext() else -1

    def queries_after(self, number: int) -> list[tuple[Figures, Figures]]:
        """Every later query that is still kept (`spark.sql.ui.retainedExecutions`), and the graph of its plan."""
        self._catch_up()
        graphs = {graph["executionId"]: graph for graph in self._read(self._view(GRAPH))}
        queries = [query for query in self._read(self._view(QUERY)) if query["executionId"] > number]
        return [(query, graphs[query["executionId"]]) for query in queries if query["executionId"] in graphs]

    def executors(self) -> list[Executor]:
        """Those that hold cores now or have held some; of the ones that are gone the last `spark.ui.retainedDeadExecutors`."""
        return [
            Executor(
                name=found["id"],
                tasks=found["completedTasks"],
                cores=found["totalCores"],
                since=found["addTime"] / 1e3,
                until=found["removeTime"] and found["removeTime"] / 1e3,
            )
            for found in self._read(self._status.executorList(False))
        ]

    def peak_memory(self, stages: Sequence[Figures]) -> int:
        """Most bytes of execution memory that one task of these stages held.

        Of a stage Spark gives the sum over its tasks, which no task of it exceeds and one of it reaches on average: stages are asked
        for their largest task in the order of their averages, but for those whose sum is no more than what was found. At most
        `MOST_ASKED` stages are asked.
        """
        asked, peak = 0, 0
        for stage in sorted(
            stages, key=lambda stage: -stage["peakExecutionMemory"] / max(1, stage["numCompleteTasks"])
        ):
            if stage["peakExecutionMemory"] > peak and asked < MOST_ASKED:
                asked += 1
                peak = max(peak, self._largest_task(stage))
        return peak

    def _largest_task(self, stage: Figures) -> int:
        if stage["numTasks"] == 1 and not stage["numFailedTasks"]:
            return int(stage["peakExecutionMemory"])
        key = self._gateway.new_array(_int(self._jvm), 2)
        key[0], key[1] = stage["stageId"], stage["attemptId"]
        found = self._view(TASK).parent(key).index(PEAK_MEMORY).reverse().max(1).iterator()
        return int(found.next().peakExecutionMemory()) if found.hasNext() else 0

    def _catch_up(self) -> None:
        """Wait until the store knows of all that has happened: Spark fills it from a queue of events."""
        try:
            self._bus.waitUntilEmpty(1_000 * SECONDS_TO_CATCH_UP)
        except Py4JJavaError as error:
            if not is_instance_of(self._gateway, error.java_exception, "java.util.concurrent.TimeoutException"):
                raise
            log.warning(
                "Spark's queue of events is not empty after %d s, expected less than one: what stages cost is recorded too low."
                " A listener of spark.extraListeners, or the place of spark.eventLog.dir, may be slow.",
                SECONDS_TO_CATCH_UP,
            )

    def _view(self, name: str) -> Any:
        return self._store.view(_class(self._jvm, name))

    def _read(self, found: Any) -> list[Any]:
        """One call for all, as JSON: asking each figure by itself would be a round trip each."""
        read: list[Any] = json.loads(_mapper(self._jvm).writeValueAsString(found))
        return read


@lru_cache(maxsize=1)
def _mapper(jvm: Any) -> Any:
    """Jackson's, for Scala's classes. Kept, since it learns each class once."""
    jackson = jvm.com.fasterxml.jackson
    ignored = getattr(jackson.annotation, "JsonIgnoreProperties$Value")
    mapper = jackson.databind.ObjectMapper()
    mapper.registerModule(jackson.module.scala.DefaultScalaModule())
    for name, fields in UNREAD.items():
        mapper.configOverride(_class(jvm, name)).setIgnorals(ignored.forIgnoredProperties(set(fields)))
    return mapper


# py4j asks the JVM for each part of a name anew: what does not change is kept.


@lru_cache(maxsize=8)
def _class(jvm: Any, name: str) -> Any:
    return jvm.org.apache.spark.util.Utils.classForName(name, True, False)


@lru_cache(maxsize=1)
def _int(jvm: Any) -> Any:
    return jvm.int
