"""Secrets stand in no file and on no command line: which settings hold one, and the sentence that refuses them.

What is refused would be copied: into process lists, event logs, the report's configuration, a scheduler's task logs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

CURE = (
    "Give it in the environment of the process (AWS_SECRET_ACCESS_KEY), by the machine's role, or by a credential provider"
    " (spark.hadoop.hadoop.security.credential.provider.path)"
)
# Names that end so hold a secret; `...secret.file`, `...credentials.provider` say where one is.
_NAME = re.compile(
    r"(secret|passw(or)?d|token|(access|secret|account|private|api|shared)[._-]?key([._-]?id)?)"
    r"(\.[a-z0-9-]+\.(dfs|blob)\.core\.windows\.net)?$",
    re.IGNORECASE,
)
_JAVA_PROPERTY = re.compile(r"-D([^\s=]+)=")
_CONF = re.compile(r"(?:--conf|-c)[\s=]+[\"']?([^\s=\"']+)=")
_USER_INFO = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s@:]*:[^/\s@]+@")


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name is a secret."""
    return _NAME.search(name) is not None


def refused_name(name: str) -> str:
    """The name of a setting.

    Raises:
        ValueError: its value is a secret.
    """
    if is_secret(name):
        raise ValueError(f"expected no secret in a file or on a command line. {CURE}")
    return name


def refused_value(value: str) -> str:
    """The value of a setting.

    Raises:
        ValueError: it sets a Java property whose value is a secret, or is an address with a password.
    """
    hidden = [name for name in _JAVA_PROPERTY.findall(value) if is_secret(name)]
    if hidden:
        raise ValueError(
            f"expected no secret in a file or on a command line, found one for {', '.join(hidden)}. {CURE}"
        )
    return refused_address(value)


def refused_address(value: str) -> str:
    """An address or a path.

    Raises:
        ValueError: it holds a password.
    """
    if _USER_INFO.match(value):
        raise ValueError(f"expected an address without a password. {CURE}")
    return value


def in_command(command: str) -> Sequence[str]:
    """Names of the secrets that a command line sets by `--conf` or as Java properties."""
    return [name for name in (*_CONF.findall(command), *_JAVA_PROPERTY.findall(command)) if is_secret(name)]
