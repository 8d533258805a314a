"""Every kernel by name: what a driver may ask a worker to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.exact.worker.counts import count
from models.exact.worker.errors import prediction_errors
from models.exact.worker.moments import moments, set_centred

KERNELS: Mapping[str, Callable[..., Any]] = {
    "count": count,
    "moments": moments,
    "prediction_errors": prediction_errors,
    "set_centred": set_centred,
}
