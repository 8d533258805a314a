"""Every kernel by name: what a driver may ask a worker to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.exact.worker.counts import count

KERNELS: Mapping[str, Callable[..., Any]] = {
    "count": count,
}
