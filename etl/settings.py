"""Settings and connections, from the environment; secrets never show in a repr."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from etl.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_HEADROOM = 0.1
DEFAULT_TIMEOUT_S = 60.0
_LONGEST_S = 30 * 86_400.0


class Secret:
    """A text that is only shown by `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for a request header."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are: local paths (absolute) or URLs."""

    landing: str
    work: str
    ledger: str = field(repr=False)  # a database's URL may hold its password

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Spec section 6; relative paths are resolved against the folder that holds `etl/`."""
        env = os.environ if environment is None else environment
        landing = _place(env.get("PROFILE_ETL_LANDING") or "data/landing")
        work = _place(env.get("PROFILE_ETL_WORK") or "data/work")
        ledger = env.get("PROFILE_ETL_LEDGER") or ""
        if not ledger:
            if "://" in work:
                raise ConfigError(
                    "PROFILE_ETL_WORK is a URL, so several machines may share it: set PROFILE_ETL_LEDGER to a "
                    "postgresql+psycopg://... database"
                )
            ledger = f"sqlite:///{work}/ledger.db"
        return cls(landing=landing, work=work, ledger=ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How a vendor is asked what became of a batch, in seconds.

    The first time `first_s` after it took the batch, then each time after twice as long, at most `max_s`; the wait is
    over `timeout_s` after it took the batch.
    """

    first_s: float = 30.0
    max_s: float = 300.0
    timeout_s: float = 86_400.0

    def pause(self, polls: int) -> float:
        """Seconds between the poll of this number, counted from 1 (0: the vendor's "taken"), and the next one."""
        return min(self.max_s, self.first_s * 2.0 ** min(polls, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A vendor account, as an Airflow connection describes it (spec section 5)."""

    id: str
    conn_type: str
    host: str
    login: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_address(self.host, where=f"connection {self.id}")
        _number(self.id, "headroom", self.extra.get("headroom", DEFAULT_HEADROOM), low=0, below=1)
        _number(self.id, "timeout_s", self.extra.get("timeout_s", DEFAULT_TIMEOUT_S), low=1, below=3600)
        polling = self.extra.get("polling", {})
        if not isinstance(polling, Mapping) or set(polling) - {"first_s", "max_s", "timeout_s"}:
            raise ConfigError(f"connection {self.id}: extra.polling is an object of first_s, max_s and timeout_s")
        for name, value in polling.items():
            _number(self.id, f"polling.{name}", value, low=0, below=_LONGEST_S)
        limits = self.extra.get("limits", {})
        if not isinstance(limits, Mapping) or not all(isinstance(entry, Mapping) for entry in limits.values()):
            raise ConfigError(f"connection {self.id}: extra.limits must be an object of objects, by endpoint name")

    @classmethod
    def from_environment(cls, conn_id: str, environment: Mapping[str, str] | None = None) -> Connection:
        """Reads `AIRFLOW_CONN_<ID>` in its JSON form; raises ConfigError that names the variable."""
        env = os.environ if environment is None else environment
        name = f"AIRFLOW_CONN_{conn_id.upper()}"
        text = env.get(name)
        if not text:
            raise ConfigError(f"no connection {conn_id}: set {name} (JSON, see README, 'Point it at a real account')")
        try:
            value = json.loads(text)
        except ValueError:
            raise ConfigError(f"{name} is not JSON") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{name} must be a JSON object")
        try:
            return cls.from_parts(conn_id, value)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None

    @classmethod
    def from_parts(cls, conn_id: str, parts: Mapping[str, Any]) -> Connection:
        """From the keys of Airflow's JSON form; `extra` may be an object or its JSON text.

        An entry of `extra` that is null or empty is left out: so Airflow's form stores a field that nobody filled in.
        """
        extra = parts.get("extra") or {}
        if isinstance(extra, str):
            try:
                extra = json.loads(extra)
            except ValueError:
                raise ConfigError(f"connection {conn_id}: extra is not JSON") from None
        if not isinstance(extra, Mapping):
            raise ConfigError(f"connection {conn_id}: extra must be an object")
        return cls(
            id=conn_id,
            conn_type=str(parts.get("conn_type") or ""),
            host=str(parts.get("host") or ""),
            login=str(parts.get("login") or ""),
            password=Secret(str(parts.get("password") or "")),
            extra={name: value for name, value in extra.items() if value is not None and value != ""},
        )

    @property
    def headroom(self) -> float:
        """The share of rate and quota that is left to the account's other callers."""
        return float(self.extra.get("headroom", DEFAULT_HEADROOM))

    @property
    def timeout_s(self) -> float:
        """Seconds that one whole request may take."""
        return float(self.extra.get("timeout_s", DEFAULT_TIMEOUT_S))

    @property
    def polling(self) -> Polling:
        """How often, and for how long, the vendor is asked about a batch."""
        return Polling(**{name: float(value) for name, value in self.extra.get("polling", {}).items()})

    @property
    def account(self) -> str:
        """The vendor account, as a name for folders and ledger rows: rates, leases and state are shared within it."""
        identity = "|".join((self.host.rstrip("/").lower(), str(self.extra.get("project_key", "")), self.login))
        return f"{self.conn_type}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    def limits_for(self, endpoint: str) -> Mapping[str, Any]:
        """`extra.limits` of one endpoint."""
        overrides: Mapping[str, Any] = self.extra.get("limits", {}).get(endpoint, {})
        return overrides


def check_address(url: str, *, where: str) -> None:
    """Refuses an address that is not https, or http to this machine itself; raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError(f"{where}: host is not a URL") from None
    if not host or parts.username or parts.password or parts.query or parts.fragment or port == 0:
        raise ConfigError(f"{where}: host must look like https://api.example.org, with nothing secret in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigError(f"{where}: only https is used, or http to a loopback host")


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback IP addresses, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place(text: str) -> str:
    text = text.removeprefix("file://")
    return text.rstrip("/") if "://" in text else str((ROOT / Path(text).expanduser()).resolve())


def _number(conn_id: str, name: str, value: object, *, low: float, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < below:
        raise ConfigError(f"connection {conn_id}: {name} must be a number from {low} to under {below}")
