"""The part of Kubernetes' API that spark-submit and a driver use, on 127.0.0.1: it keeps what is created, and starts no pod.

It stands in for a cluster because nothing that runs one is in the package registries.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

Resource = dict[str, Any]


@dataclass
class KubernetesAPI:
    """A running API. `created` has the resources in the order in which they came."""

    address: str
    created: list[Resource] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Resource]:
        return [resource for resource in self.created if resource["kind"] == kind]


@contextmanager
def kubernetes_api() -> Iterator[KubernetesAPI]:
    created: list[Resource] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._create()

        def do_PATCH(self) -> None:  # server-side apply
            self._create()

        def do_GET(self) -> None:
            self._answer({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def _create(self) -> None:
            resource = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
            created.append(resource)
            kept = resource["metadata"] | {"uid": str(uuid.uuid4()), "namespace": "default", "resourceVersion": "1"}
            self._answer(resource | {"metadata": kept}, status=201)

        def _answer(self, resource: Resource, status: int = 200) -> None:
            body = json.dumps(resource).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield KubernetesAPI(f"http://127.0.0.1:{server.server_address[1]}", created)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
