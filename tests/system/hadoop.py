"""HDFS and YARN on this machine: Hadoop's own mini clusters in one JVM, which ends with the block."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from jobs import jars

SPARK = Path(pyspark.__file__).parent
QUEUES = "yarn.scheduler.capacity.root"
SETTINGS = {
    f"{QUEUES}.queues": "default",
    f"{QUEUES}.default.capacity": "100",
    "yarn.scheduler.capacity.maximum-am-resource-percent": "0.8",
    "yarn.scheduler.minimum-allocation-mb": "256",
    "yarn.minicluster.yarn.nodemanager.resource.memory-mb": "16384",  # in the place of a node's own setting
    "yarn.nodemanager.resource.cpu-vcores": "4",
    # The disk of a laptop is often fuller than a node's may be, and its containers' memory is no business of the test.
    "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99.5",
    "yarn.nodemanager.pmem-check-enabled": "false",
    "yarn.nodemanager.vmem-check-enabled": "false",
    # The smallest blocks that HDFS takes would do; replication is one, as there is one node.
    "dfs.replication": "1",
}


@dataclass(frozen=True)
class Hadoop:
    """A running cluster. `environment` is what a process needs to find it."""

    root: str
    environment: dict[str, str]
    _jvm: Any
    _conf: Any

    @property
    def spark_jars(self) -> str:
        """Spark's jars, which every machine of the cluster has."""
        return f"{SPARK}/jars/*"

    def upload(self, folder: Path, address: str) -> None:
        """Copy a local folder with its content to an address."""
        self._system(address).copyFromLocalFile(False, True, self._path(str(folder)), self._path(address))

    def download(self, address: str, folder: Path) -> None:
        """Copy a folder with its content to this machine."""
        self._system(address).copyToLocalFile(False, self._path(address), self._path(str(folder)), True)

    def _path(self, address: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(address)

    def _system(self, address: str) -> Any:
        return self._path(address).getFileSystem(self._conf)


@contextmanager
def hadoop(folder: Path) -> Iterator[Hadoop]:
    """HDFS with one data node, YARN with one node manager."""
    folder.mkdir(parents=True, exist_ok=True)
    gateway = _gateway(folder)
    jvm = gateway.jvm
    stopping = []
    try:
        conf = jvm.org.apache.hadoop.yarn.conf.YarnConfiguration()
        for name, value in SETTINGS.items():
            conf.set(name, value)
        conf.set("hadoop.tmp.dir", str(folder / "tmp"))
        builder = jvm.org.apache.hadoop.hdfs.MiniDFSCluster.Builder(conf)
        hdfs = builder.numDataNodes(1).format(True).build()
        stopping.append(hdfs.shutdown)
        hdfs.waitActive()
        yarn = jvm.org.apache.hadoop.yarn.server.MiniYARNCluster("millrace", 1, 1, 1)
        yarn.init(conf)
        yarn.start()
        stopping.append(yarn.stop)
        yarn.waitForNodeManagersToConnect(30_000)
        root = str(hdfs.getFileSystem().getUri())
        _write(jvm, conf, yarn.getConfig(), root, folder / "conf")
        environment = {
            "HADOOP_CONF_DIR": str(folder / "conf"), "SPARK_HOME": str(SPARK), "JAVA_HOME": os.environ["JAVA_HOME"],
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        yield Hadoop(root, environment, jvm, conf)
    finally:
        for stop in reversed(stopping):
            stop()
        gateway.shutdown()


def _gateway(folder: Path) -> JavaGateway:
    classpath = ":".join([*(str(jar) for jar in jars.ensure("hdfs-test")), f"{SPARK}/jars/*"])
    places = ("test.build.data", "java.io.tmpdir", "hadoop.log.dir", "yarn.log.dir")
    log = (folder / "cluster.log").open("w")
    port, _token = launch_gateway(
        classpath=classpath, jarpath=str(next(SPARK.glob("jars/py4j-*.jar"))), die_on_exit=True, enable_auth=True,
        javaopts=["-Xmx768m", *(f"-D{name}={folder}" for name in places)], cwd=str(folder),
        java_path=f"{os.environ['JAVA_HOME']}/bin/java", redirect_stdout=log, redirect_stderr=log,
    )  # fmt: skip
    return JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=_token, auto_convert=True))


def _write(jvm: Any, conf: Any, yarn_conf: Any, root: str, folder: Path) -> None:
    """The client's `core-site.xml` and `yarn-site.xml`."""
    folder.mkdir()
    conf.set("fs.defaultFS", root)
    core = jvm.org.apache.hadoop.conf.Configuration(False)
    core.set("fs.defaultFS", root)
    core.set("dfs.replication", "1")
    yarn = jvm.org.apache.hadoop.conf.Configuration(False)
    for name in ("", ".scheduler", ".resource-tracker", ".admin", ".webapp"):
        setting = f"yarn.resourcemanager{name}.address"
        yarn.set(setting, yarn_conf.get(setting))
    for file, written in (("core-site.xml", core), ("yarn-site.xml", yarn)):
        stream = jvm.java.io.FileOutputStream(str(folder / file))
        written.writeXml(stream)
        stream.close()
