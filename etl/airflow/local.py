"""An Airflow on this machine with its UI, these Dags and the emulator: `python -m etl.airflow.local`, until Ctrl-C or kill.

A supervisor: it starts the processes, and however it ends, none of them is left. All that they write is in one folder,
made anew at each start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import psutil  # type: ignore[import-untyped]

from etl.airflow.home import environment
from etl.sample import make_sample
from etl.settings import ROOT

# The log servers of scheduler and triggerer would listen on every interface; the UI reads the files instead.
AIRFLOW = {
    "api-server": ("airflow", "api-server"),
    "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
    "dag-processor": ("airflow", "dag-processor"),
    "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
}
SAMPLE_DAYS = 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY_S, _ASK_AGAIN_S, _PATIENCE_S = 180.0, 5.0, 20.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_BIN = Path(sys.executable).parent


class StartError(Exception):
    """The processes cannot be started, or one of them has ended by itself."""


def main() -> None:
    """Runs until it is told to stop; ends with 1 if it had to give up."""
    parser = argparse.ArgumentParser(prog="etl.airflow.local")
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow", help="a folder that is made anew")
    parser.add_argument("--port", type=int, default=8080, help="of the UI")
    parser.add_argument("--emulator-port", type=int, default=8099)
    asked = parser.parse_args()
    for number in _SIGNALS:
        signal.signal(number, _stop)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        serve(asked.home.resolve(), asked.port, asked.emulator_port)
    except StartError as error:
        sys.exit(f"airflow: {error}")
    except KeyboardInterrupt:
        say("==> ending Airflow and the emulator")
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        end_all()


def serve(home: Path, port: int, emulator_port: int) -> None:
    """Starts everything, says where it is, and watches it until a signal comes; raises StartError."""
    for option, number in (("--port", port), ("--emulator-port", emulator_port)):
        check_free(option, number)
    say(f"==> a fresh Airflow in {home}, with invented exports up to yesterday")
    shutil.rmtree(home, ignore_errors=True)
    logs, landing, emulator = home / "processes", home / "landing", f"http://127.0.0.1:{emulator_port}"
    logs.mkdir(parents=True)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    make_sample(
        customers=2000, receipts=6000, days=35, crm_days=SAMPLE_DAYS, seed=2026, out=landing, last_day=yesterday
    )
    ours = environment(home, landing=landing, emulator=emulator, port=port)
    settings = home / "env.sh"
    settings.touch(mode=0o600)
    settings.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in ours.items()))
    env = os.environ | ours
    if start("database", ("python", "-m", "etl.airflow.home"), env, logs).wait():
        raise StartError(f"Airflow's database could not be made; see {logs}/database.log")
    say("==> starting Airflow and the emulator")
    running = {"emulator": start("emulator", ("profile-etl", "emulator", "--port", str(emulator_port)), env, logs)}
    running |= {name: start(name, command, env, logs) for name, command in AIRFLOW.items()}
    deadline = time.monotonic() + _READY_S
    while not is_ready(port):
        check_running(running, logs)
        if time.monotonic() > deadline:
            raise StartError(f"Airflow is not ready after {_READY_S:.0f} s; see {logs}")
        time.sleep(0.5)
    say(f"ready: Airflow   http://127.0.0.1:{port}  (no login; a run of yesterday begins by itself)")
    say(f"       emulator  {emulator}")
    say(f"       exports   {landing}, {yesterday - timedelta(days=SAMPLE_DAYS - 1)} to {yesterday}")
    say(f"       settings  . {home}/env.sh  (for `airflow` and `profile-etl` in another terminal)")
    say("Ctrl-C ends everything.")
    while True:
        check_running(running, logs)
        time.sleep(1)


def start(name: str, command: tuple[str, ...], env: dict[str, str], logs: Path) -> subprocess.Popen[bytes]:
    """Starts a process with its output in a file; Ctrl-C does not reach it, the end of this process does."""
    with (logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (our own commands)
            (_BIN / command[0], *command[1:]), env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=_end_with_parent,  # noqa: PLW1509  (there are no threads here)
        )  # fmt: skip


def check_free(option: str, port: int) -> None:
    """Raises StartError when a port is taken: an old server there would answer in the place of ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            remedy = f"end what listens there, or run .venv/bin/python -m etl.airflow.local {option} NUMBER"
            raise StartError(f"port {port} is taken: {remedy}") from None


def check_running(running: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Raises StartError when a process has ended by itself."""
    for name, process in running.items():
        if process.poll() is not None:
            raise StartError(f"{name} ended by itself (code {process.returncode}); see {logs}/{name}.log")


def is_ready(port: int) -> bool:
    """True when each part of Airflow says that it is healthy."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:
            return all(part["status"] == "healthy" for part in json.load(answer).values())
    except OSError:
        return False


def end_all() -> None:
    """Ends every process below this one, politely first. Airflow's tasks have groups of their own, hence one by one."""
    deadline = time.monotonic() + _PATIENCE_S
    while below := psutil.Process().children(recursive=True):
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if time.monotonic() > deadline else process.terminate()
        psutil.wait_procs(below, timeout=_ASK_AGAIN_S)


def say(text: str) -> None:
    """A line for the person at the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    """Linux only: children end when we are killed, and what loses its parent becomes our child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
