"""Provider: what Airflow learns of this package when it starts, the connection types and their forms above all.

Airflow reads it by the entry point `apache_airflow_provider`, in each of its processes, without importing a hook. What a
form leaves empty is stored as null.
"""

from __future__ import annotations

from typing import Any

_NOT_USED = ["port", "schema"]


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata, as Airflow's `provider.yaml` has it."""
    return {
        "package-name": "profile-etl",
        "name": "profile-etl",
        "description": "Customer profiles to Batch, Adobe Target and Releva.",
        "connection-types": [
            {
                "connection-type": "batch",
                "hook-class-name": "etl.airflow.hooks.BatchHook",
                "hook-name": "Batch",
                "ui-field-behaviour": {
                    "hidden-fields": [*_NOT_USED, "login"],
                    "relabeling": {"host": "Address", "password": "REST API key"},
                    "placeholders": {"host": "https://api.batch.com"},
                },
                "conn-fields": {
                    "project_key": _text("Project key", "Begins with project_; needed"),
                    "api_version": _text("API version", "2.11 if empty"),
                    **_COMMON,
                },
            },
            {
                "connection-type": "adobe_target",
                "hook-class-name": "etl.airflow.hooks.AdobeTargetHook",
                "hook-name": "Adobe Target",
                "ui-field-behaviour": {
                    "hidden-fields": _NOT_USED,
                    "relabeling": {
                        "host": "Address",
                        "login": "Client code",
                        "password": "Token (only if required)",
                    },
                    "placeholders": {"host": "https://<client>.tt.omtrdc.net"},
                },
                "conn-fields": {
                    "bulk_version": _text("Bulk API version", "v2 if empty", "v2", "v1"),
                    "id": _text(
                        "The customer_id is a",
                        "thirdPartyId if empty; pcId with version v1 only",
                        "thirdPartyId",
                        "pcId",
                    ),
                    **_COMMON,
                },
            },
            {
                "connection-type": "releva",
                "hook-class-name": "etl.airflow.hooks.RelevaHook",
                "hook-name": "Releva",
                "ui-field-behaviour": {
                    "hidden-fields": [*_NOT_USED],
                    "relabeling": {"host": "Address", "login": "Name of the account", "password": "Secret key"},
                    "placeholders": {"host": "https://releva.ai", "login": "only to tell accounts on one host apart"},
                },
                "conn-fields": _COMMON,
            },
        ],
    }


def _text(label: str, description: str, *choices: str) -> dict[str, Any]:
    schema = {"type": ["string", "null"]} | ({"enum": list(choices)} if choices else {})
    return {"label": label, "description": description, "schema": schema}


def _number(label: str, description: str, least: float, most: float) -> dict[str, Any]:
    schema = {"type": ["number", "null"], "minimum": least, "maximum": most}
    return {"label": label, "description": description, "schema": schema}


# `polling` and `limits` are objects; they are written into the form's JSON.
_COMMON = {
    "headroom": _number(
        "Headroom", "The share of rate and quota for the account's other callers; 0.1 if empty", 0, 0.99
    ),
    "timeout_s": _number("Time limit", "Seconds that one request may take; 60 if empty", 1, 3599),
}
