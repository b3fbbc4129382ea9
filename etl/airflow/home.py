"""Home: the environment of an Airflow on this machine that delivers to the emulator, and its database with the pools.

`python -m etl.airflow.home` makes the database of the AIRFLOW_HOME that the environment names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etl.emulator.adobe import DEMO_CLIENT
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.releva import DEMO_SECRET_KEY
from etl.settings import ROOT
from etl.syncs import SYNCS


def environment(home: Path, *, landing: Path, emulator: str, port: int = 8080) -> dict[str, str]:
    """The variables for Airflow and for us. They hide any real connection of the same name; `port` is the UI's."""
    work = home / "work"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        # Many processes share this file: in the five seconds that are the default not everybody's turn comes.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PROFILE_ETL_LANDING": str(landing),
        "PROFILE_ETL_WORK": str(work),
        "PROFILE_ETL_LEDGER": f"sqlite:///{work}/ledger.db",
        **connections(emulator),
    }


def connections(emulator: str) -> dict[str, str]:
    """The connections of the sample syncs, all leading to the emulator."""
    accounts: dict[str, dict[str, Any]] = {
        "batch": {"password": DEMO_API_KEY, "extra": {"project_key": DEMO_PROJECT, "api_version": "2.11"}},
        # A batch is done here in no time, so that nobody has to wait half a minute to be told.
        "adobe_target": {"login": DEMO_CLIENT, "extra": {"polling": {"first_s": 1, "max_s": 2}}},
        "releva": {"password": DEMO_SECRET_KEY},
    }
    return {
        f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT": json.dumps({"conn_type": conn_type, "host": emulator, **account})
        for conn_type, account in accounts.items()
    }


def make_database() -> None:
    """Makes Airflow's keys, its database and a pool for each connection; without its pool a task never starts."""
    from airflow.configuration import write_default_airflow_configuration_if_needed
    from airflow.models.pool import Pool
    from airflow.utils.db import initdb

    from etl.airflow.dag import pool_name

    write_default_airflow_configuration_if_needed()  # else each process of Airflow makes keys of its own
    initdb()
    for connection in sorted({sync.connection for sync in SYNCS.values()}):
        Pool.create_or_update_pool(
            pool_name(connection), slots=1, description=f"runs that send by {connection}", include_deferred=False
        )


if __name__ == "__main__":
    make_database()
