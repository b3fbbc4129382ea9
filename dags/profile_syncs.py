# ruff: noqa: INP001  (Airflow loads this file by its path; it is in no package)
"""### Customer profiles, once a day

Carries the CRM and POS exports of one day to a customer-profile API, inside the vendor's limits, with an account of
every row. The task `report` writes the account into its log and to `run_report.json` in the run's folder.

| task | does |
|---|---|
| `wait_for_export` | only in a sync that asks for it: waits until the CRM export has landed |
| `extract` | takes a snapshot of the day's files |
| `validate` | sets rows aside that break the contract |
| `transform` | makes profiles of the others |
| `pack` | leaves out what the account knows already, and stages the exact bytes of every call |
| `plan` | says how many calls, bytes and minutes that takes |
| `load` | sends, at the allowed rate |
| `wait` | asks the vendor what became of it, where the vendor says so |
| `reconcile` | finds the one end of every row |
| `report` | writes the account, and fails the Dag run when it is not finished (exit code 3) or does not balance (4) |

**Params**: `date` (the day that the exports cover), `destination`, `full`, `limit`, `dry_run`, `accept_volume`.
Without `date` a run covers the start of its data interval, or the day that an asset's event names; triggered without any
date, yesterday.

**When it fails**, read the last line of the failed task's log. It says what to put right; then clear that task and what
follows. Clearing is always safe: what the vendor accepted is not sent again. A missing or broken export fails at once;
network troubles are retried by themselves. `load` sends nothing that stands in the ledger as accepted.

**When not to clear**: when the export itself was wrong. Deliver it again and trigger a new run with the same `date`.
The whole page: `docs/airflow.md`.
"""

from __future__ import annotations

from etl.airflow.dag import profile_dag
from etl.syncs import SYNCS

for sync in SYNCS.values():
    profile_dag(sync, doc_md=__doc__)
