"""The lease of a vendor account: one process sends at a time, and a dead one is replaced.

The lease ends by itself when it is not renewed. A holder on this machine that no longer runs is replaced at once.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

from etl.errors import Busy, LedgerError
from etl.ledger.store import Ledger, LostLeaseError

LEASE_S = 60.0
# Does something every so many seconds while a block runs, until it returns False.
Beat = Callable[[Callable[[], bool], float], AbstractContextManager[None]]


@contextmanager
def beating(action: Callable[[], bool], seconds: float) -> Iterator[None]:
    """A beat in a thread of its own."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds) and action():
            pass

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def lease(
    ledger: Ledger,
    account: str,
    *,
    patience_s: float,
    sleep: Callable[[float], bool],
    beat: Beat = beating,
    lease_s: float = LEASE_S,
) -> Iterator[int]:
    """Holds an account; gives the fence that every write of an intent has to show.

    Raises Busy when somebody else holds the account for longer than `patience_s`.
    """
    me = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    deadline = ledger.now() + patience_s
    while (fence := _take(ledger, account, me, lease_s)) is None:
        if ledger.now() >= deadline or not sleep(min(1.0, lease_s / 10)):
            raise Busy("another run of this vendor account is sending; this one waits for it", wait=lease_s / 2)
    try:
        with beat(partial(_keep, ledger, account, fence, lease_s), lease_s / 3):
            yield fence
    finally:
        ledger.drop_lease(account, fence=fence)


def _take(ledger: Ledger, account: str, me: str, lease_s: float) -> int | None:
    holder = ledger.holder(account)
    dead = {holder: _is_dead(holder)} if holder else {}
    return ledger.take_lease(account, holder=me, until=ledger.now() + lease_s, is_dead=dead)


def _keep(ledger: Ledger, account: str, fence: int, lease_s: float) -> bool:
    """Holds the lease for longer; False when it is somebody else's, and the next intent of this process is refused."""
    with suppress(LedgerError):  # the database is out of reach or busy; the lease lasts for another try
        try:
            ledger.renew_lease(account, fence=fence, until=ledger.now() + lease_s)
        except LostLeaseError:
            return False
    return True


def _is_dead(holder: str) -> bool:
    """True when the holder was a process of this machine that is gone."""
    host, pid, _ = holder.rsplit(":", 2)
    if host != socket.gethostname() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
        # One that has ended keeps its number until its parent asks how, and not every container has an init that does.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except (PermissionError, FileNotFoundError):  # somebody else's, or a system without such files
        return False
