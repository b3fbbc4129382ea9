"""One process sends for an account at a time; a dead one is replaced, a sleeping one is told when it wakes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from etl.errors import Busy, LedgerError
from etl.ledger import Ledger, LostLeaseError, lease

HOLDER = """
import sys, time
from etl.ledger import Ledger, lease
with lease(Ledger(sys.argv[1]), sys.argv[2], patience_s=0, sleep=lambda s: False) as fence:
    print(fence, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def real_ledger(url):
    ledger = Ledger(url)
    yield ledger
    ledger.close()


def really(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def never(_seconds: float) -> bool:
    return False


def test_an_account_is_held_by_one(ledger, account, clock):
    """The second one is told that it has to wait, and gets the account when the first one is done."""
    with lease(ledger, account, patience_s=0, sleep=never) as first:
        with pytest.raises(Busy, match="another run") as caught, lease(ledger, account, patience_s=0, sleep=never):
            pytest.fail("two holders")
        assert caught.value.wait > 0
    with lease(ledger, account, patience_s=0, sleep=never) as second:
        assert second > first


def test_other_accounts_are_free(ledger, account):
    """A lease is of one account only."""
    with lease(ledger, account, patience_s=0, sleep=never), lease(ledger, "other", patience_s=0, sleep=never):
        pass


def test_threads_that_want_the_account_get_it_in_turn(real_ledger, account):
    """Eight of them at once: never two inside, and all come through."""
    inside, most, fences = [], [], []

    def work() -> None:
        with lease(real_ledger, account, patience_s=60, sleep=lambda _: really(0.02)) as fence:
            inside.append(fence)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(fence)
            fences.append(fence)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert fences == sorted(set(fences))
    assert len(fences) == 8


def test_a_lease_is_renewed_while_its_holder_works(real_ledger, account):
    """Work that takes longer than the lease keeps it."""
    with lease(real_ledger, account, patience_s=0, sleep=never, lease_s=0.9) as fence:
        time.sleep(1.5)
        taken = real_ledger.take_lease(account, holder="x:1:y", until=real_ledger.now() + 60, is_dead={})
        assert taken is None
        real_ledger.renew_lease(account, fence=fence, until=real_ledger.now() + 60)


def test_a_moments_trouble_with_the_database_does_not_end_the_renewing(real_ledger, account, monkeypatch):
    """A renewal that fails is tried again in time."""
    renew, failures = real_ledger.renew_lease, [LedgerError("the ledger is out of reach")]

    def trouble(*args, **kwargs) -> None:
        if failures:
            raise failures.pop()
        renew(*args, **kwargs)

    monkeypatch.setattr(real_ledger, "renew_lease", trouble)
    with lease(real_ledger, account, patience_s=0, sleep=never, lease_s=1.2):
        time.sleep(1.6)
        assert failures == []
        assert real_ledger.take_lease(account, holder="x:1:y", until=0, is_dead={}) is None


def test_a_lease_that_is_not_renewed_ends(ledger, account, clock):
    """A machine that vanished blocks the account for the length of the lease, and no longer."""
    old = ledger.take_lease(account, holder="elsewhere:1:x", until=clock.now + 60, is_dead={})
    clock.now += 59
    assert ledger.take_lease(account, holder="here:1:y", until=clock.now + 60, is_dead={}) is None
    clock.now += 2
    new = ledger.take_lease(account, holder="here:1:y", until=clock.now + 60, is_dead={})
    assert new == old + 1


def test_a_zombie_is_refused_and_cannot_give_back_what_is_not_its_own(ledger, account, clock):
    """Whoever wakes after its lease went to somebody else can neither renew nor drop it."""
    old = ledger.take_lease(account, holder="elsewhere:1:x", until=clock.now - 1, is_dead={})
    new = ledger.take_lease(account, holder="here:1:y", until=clock.now + 60, is_dead={})
    with pytest.raises(LostLeaseError):
        ledger.renew_lease(account, fence=old, until=clock.now + 60)
    ledger.drop_lease(account, fence=old)
    assert ledger.holder(account) == "here:1:y"
    ledger.drop_lease(account, fence=new)
    assert ledger.holder(account) is None


def test_a_killed_holder_of_this_machine_is_replaced_at_once(url, real_ledger, account):
    """Nobody waits for the end of a dead process's lease; a living one is left alone."""
    holder = subprocess.Popen((sys.executable, "-c", HOLDER, url, account), stdout=subprocess.PIPE, text=True)
    try:
        fence = int(holder.stdout.readline())
        with pytest.raises(Busy), lease(real_ledger, account, patience_s=0, sleep=never):
            pytest.fail("the holder lives")
    finally:
        holder.kill()
        holder.communicate()
    with lease(real_ledger, account, patience_s=0, sleep=never) as mine:
        assert mine == fence + 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells such a process from a living one")
def test_a_killed_holder_whom_nobody_buries_is_replaced_at_once(url, real_ledger, account):
    """Where no init runs, as in many a container, a dead process keeps its number for good."""
    holder = subprocess.Popen((sys.executable, "-c", HOLDER, url, account), stdout=subprocess.PIPE, text=True)
    fence = int(holder.stdout.readline())
    holder.kill()
    try:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with lease(real_ledger, account, patience_s=0, sleep=never) as mine:
            assert mine == fence + 1
    finally:
        holder.communicate()


def test_a_holder_elsewhere_is_believed_until_its_lease_ends(ledger, account, clock):
    """The number of another machine's process says nothing here."""
    ledger.take_lease(account, holder=f"{socket.gethostname()}.elsewhere:999999:x", until=clock.now + 60, is_dead={})
    with pytest.raises(Busy), lease(ledger, account, patience_s=0, sleep=never):
        pytest.fail("two holders")


def test_a_wait_for_the_lease_ends_when_the_run_is_to_stop(ledger, account, clock):
    """Patience ends with the run."""
    ledger.take_lease(account, holder="elsewhere:1:x", until=clock.now + 60, is_dead={})
    with pytest.raises(Busy), lease(ledger, account, patience_s=600, sleep=never):
        pytest.fail("two holders")
