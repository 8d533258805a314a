"""What NVIDIA's driver says of this machine's GPUs, by its own command."""

from __future__ import annotations

import shutil
import subprocess

SECONDS = 30


def is_there() -> bool:
    """Whether the command, which comes with the driver, is on the PATH."""
    return shutil.which("nvidia-smi") is not None


def asked(*arguments: str) -> list[str] | str:
    """Its lines, or what went wrong; for a command that is there."""
    try:
        told = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"nvidia-smi has not answered for {SECONDS} s"
    if told.returncode:
        said = (told.stdout + told.stderr).strip().partition("\n")[0]
        return said or f"nvidia-smi ended with exit code {told.returncode}"
    return [line for line in told.stdout.splitlines() if line.strip()]
