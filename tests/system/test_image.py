"""The image of drivers and executors, built by buildah from Debian's packages and pushed to a registry: what runs in it makes the tables that
are made here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import yaml

from scripts import cluster_package
from tests.system import lakes, places
from tests.system.test_places import assert_same

NAME, BASE = "millrace:test", "debian-of-the-test"
MIRROR, SUITE = "http://deb.debian.org/debian", "bookworm"
USER = 185
CERTIFICATES = "/opt/certificates.crt"
TOOLS = ("buildah", "debootstrap", "docker-registry")

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
        reason="building needs root and, on Debian, apt-get install buildah debootstrap docker-registry",
    ),
]


class Buildah:
    """Images in a folder, without a daemon; a stand-in for Docker, which a test could not start."""

    def __init__(self, folder: Path) -> None:
        self._words = ["buildah", "--root", f"{folder}/images", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self._words, *words], capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout.strip()


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """The address of a registry that keeps its images in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": f"{folder}/registry"}},
        "http": {"addr": address},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "registry.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = []
        while "listening on" not in (line := process.stderr.readline()):
            said.append(line)
            assert line, said
        Thread(target=process.stderr.read, daemon=True).start()
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """`NAME`, as the README builds it, from a base of Debian's own packages: registries of images may be out of reach."""
    folder = tmp_path_factory.mktemp("image")
    buildah = Buildah(folder)
    cluster_package.main([str(folder / "package"), "--image", NAME])
    subprocess.run(["debootstrap", "--variant=minbase", SUITE, f"{folder}/debian", MIRROR], check=True)
    base = buildah("from", "scratch")
    buildah("add", base, f"{folder}/debian", "/")
    if "SSL_CERT_FILE" in os.environ:  # the network of this machine has authorities of its own
        buildah("copy", base, os.environ["SSL_CERT_FILE"], CERTIFICATES)
        buildah("config", "--env", f"SSL_CERT_FILE={CERTIFICATES}", "--env", f"PIP_CERT={CERTIFICATES}", base)
    buildah("commit", "--rm", base, BASE)
    buildah(
        "build", "--isolation", "chroot", "--build-arg", f"BASE=localhost/{BASE}", "--tag", NAME,
        f"{folder}/package/image",
    )  # fmt: skip
    yield buildah
    shutil.rmtree(folder)  # gigabytes


def test_a_driver_of_the_image(image: Buildah, tmp_path: Path) -> None:
    """Started as Kubernetes starts it, with all jobs, by a user without rights."""
    work = places.parcels(tmp_path / "parcels")
    with places.folder_of_this_machine(work, tmp_path / "here") as run:
        here = run()
    there = tmp_path / "there"
    shutil.copytree(work.raw, there / "raw")
    shutil.copy(work.pipeline, there)
    place = {"name": "place", "raw": "/there/raw", "lake": "/there/lake", "spark": dict(work.spark)}
    (there / "place.yaml").write_text(yaml.safe_dump(place))
    there.chmod(0o777)

    with registry(tmp_path) as address:
        image("push", "--tls-verify=false", NAME, f"docker://{address}/{NAME}")
        # Kubernetes lets a pod find the address of its own name.
        options = ["--add-host", "driver:127.0.0.1", "--pull-always", "--tls-verify=false"]
        container = image("from", *options, f"docker://{address}/{NAME}")
    driver = ["/opt/millrace/entrypoint.sh", "driver", "--master", "local[2]", "--driver-memory", "1g"]
    script = ["--class", "org.apache.spark.deploy.PythonRunner", "/opt/millrace/millrace.py"]
    image(
        "run", "--isolation", "chroot", "--hostname", "driver", "--volume", f"{there}:/there", "--env", "SPARK_DRIVER_BIND_ADDRESS=127.0.0.1",
        container, "--", *driver, *script, "run", "/there/parcels.yaml", "--env", "/there/place.yaml",
    )  # fmt: skip

    assert_same(lakes.tables(there / "lake"), here.tables, measured_to=1e-6)
    assert {file.stat().st_uid for file in (there / "lake").rglob("*.parquet")} == {USER}
