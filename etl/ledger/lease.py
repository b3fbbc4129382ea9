"""The lease of a vendor account: one process sends at a time, and a dead one is replaced.

The lease ends by itself when it is not renewed. A holder on this machine that no longer runs is replaced at once.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etl.errors import Busy, LedgerError
from etl.ledger.store import Ledger, LostLeaseError

LEASE_S = 60.0


@contextmanager
def lease(
    ledger: Ledger, account: str, *, patience_s: float, sleep: Callable[[float], bool], lease_s: float = LEASE_S
) -> Iterator[int]:
    """Holds an account; gives the fence that every write of an intent has to show.

    Raises Busy when somebody else holds the account for longer than `patience_s`.
    """
    me = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    deadline = ledger.now() + patience_s
    while (fence := _take(ledger, account, me, lease_s)) is None:
        if ledger.now() >= deadline or not sleep(min(1.0, lease_s / 10)):
            raise Busy("another run of this vendor account is sending; this one waits for it", wait=lease_s / 2)
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(ledger, account, fence, lease_s, done), daemon=True)
    keeper.start()
    try:
        yield fence
    finally:
        done.set()
        keeper.join()
        ledger.drop_lease(account, fence=fence)


def _take(ledger: Ledger, account: str, me: str, lease_s: float) -> int | None:
    holder = ledger.holder(account)
    dead = {holder: _is_dead(holder)} if holder else {}
    return ledger.take_lease(account, holder=me, until=ledger.now() + lease_s, is_dead=dead)


def _keep(ledger: Ledger, account: str, fence: int, lease_s: float, done: threading.Event) -> None:
    while not done.wait(lease_s / 3):
        try:
            ledger.renew_lease(account, fence=fence, until=ledger.now() + lease_s)
        except LostLeaseError:
            return  # the next intent of this process is refused
        except LedgerError:
            continue  # the database is out of reach or busy; the lease lasts for another try


def _is_dead(holder: str) -> bool:
    """True when the holder was a process of this machine that is gone."""
    host, pid, _ = holder.rsplit(":", 2)
    if host != socket.gethostname() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
