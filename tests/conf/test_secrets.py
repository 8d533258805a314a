"""Secrets stand in no file and on no command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import secrets
from conf.errors import ConfigError
from conf.load import load

CURE = (
    "Give it in the environment of the process (AWS_SECRET_ACCESS_KEY), by the machine's role, or by a credential provider"
    " (spark.hadoop.hadoop.security.credential.provider.path)."
)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spark.hadoop.fs.s3a.secret.key", True),
        ("spark.hadoop.fs.s3a.access.key", True),
        ("spark.hadoop.fs.s3a.bucket.flights.session.token", True),
        ("spark.executorEnv.AWS_SECRET_ACCESS_KEY", True),
        ("spark.executorEnv.AWS_ACCESS_KEY_ID", True),
        ("spark.executorEnv.AWS_SESSION_TOKEN", True),
        ("spark.hadoop.fs.azure.account.key.mine.dfs.core.windows.net", True),
        ("spark.authenticate.secret", True),
        ("spark.ssl.trustStorePassword", True),
        ("spark.authenticate.secret.file", False),
        ("spark.hadoop.fs.s3a.aws.credentials.provider", False),
        ("spark.hadoop.hadoop.security.credential.provider.path", False),
        ("spark.kubernetes.driver.secrets.store", False),
        ("spark.sql.shuffle.partitions", False),
    ],
)
def test_which_settings_hold_a_secret(name: str, *, expected: bool) -> None:
    assert secrets.is_secret(name) == expected


@pytest.mark.quick
def test_an_environment_with_secrets_is_refused_with_all_their_lines(shop: Path) -> None:
    """Nothing of the secrets is said again."""
    Path("env.yaml").write_text(
        "name: cloud\n"
        "raw: s3a://canary1:canary2@flights/raw\n"
        "mlflow: postgresql://me:canary3@db/mlflow\n"
        "spark:\n"
        "  spark.hadoop.fs.s3a.secret.key: canary4\n"
        "  spark.driver.extraJavaOptions: -Dfs.s3a.access.key=canary5 -Dother=1\n"
        "  spark.hadoop.fs.s3a.endpoint: http://127.0.0.1:5000\n"
    )
    with pytest.raises(ConfigError) as caught:
        load("shop.yaml", environment="env.yaml", settings=["environment.lake=s3a://a:canary6@flights/lake"])
    assert sorted(caught.value.problems) == [
        f"--set environment.lake: expected an address without a password. {CURE}",
        f"env.yaml:2: raw: expected an address without a password. {CURE}",
        f"env.yaml:3: mlflow: expected an address without a password. {CURE}",
        f"env.yaml:5: spark.spark.hadoop.fs.s3a.secret.key: expected no secret in a file or on a command line. {CURE}",
        "env.yaml:6: spark.spark.driver.extraJavaOptions: expected no secret in a file or on a command line, found one for"
        f" fs.s3a.access.key. {CURE}",
    ]


@pytest.mark.quick
def test_addresses_without_a_password_are_taken(shop: Path) -> None:
    """A user's name alone, a port, a path with a colon or an at sign."""
    found = load(
        "shop.yaml",
        settings=[
            "environment.lake=abfss://box@account.dfs.core.windows.net/a:b@c",
            "environment.mlflow=http://127.0.0.1:5000",
        ],
    )
    assert found.environment.lake == "abfss://box@account.dfs.core.windows.net/a:b@c"
    assert found.environment.mlflow == "http://127.0.0.1:5000"


@pytest.mark.quick
def test_a_command_line_is_searched() -> None:
    command = (
        "org.apache.spark.deploy.SparkSubmit --conf spark.hadoop.fs.s3a.secret.key=canary --conf spark.ui.enabled=false -c"
        " 'spark.executorEnv.AWS_SESSION_TOKEN=canary' --conf spark.driver.extraJavaOptions=-Dfs.s3a.access.key=canary jobs/ingest.py"
    )
    assert secrets.in_command(command) == [
        "spark.hadoop.fs.s3a.secret.key", "spark.executorEnv.AWS_SESSION_TOKEN", "fs.s3a.access.key",
    ]  # fmt: skip
