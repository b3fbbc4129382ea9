"""The only rooms that import airflow, besides `dags/`: they start the steps of `etl.pipeline` and hold no logic of theirs."""
