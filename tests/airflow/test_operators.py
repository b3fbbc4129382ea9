"""What the operators decide by themselves; how they run is shown in test_dag_runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.gates import CODES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["files", "why", "rows"]), inner),
)


def _texts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    return [] if isinstance(value, int | float) else [value]


@given(st.dictionaries(st.sampled_from(["files", "why", "rows"]), JSON))
def test_no_text_of_a_result_gets_into_xcom(result: dict[str, Any]) -> None:
    """Names of counts and numbers, however deep: an e-mail, a phone or a customer id has no way in."""
    from etl.airflow.operators import counts

    assert _texts(counts(result)) == []


@pytest.mark.parametrize("stopped", [None, "quota", *CODES, "http_401", "http_403", "http_404", "http_302"])
def test_what_another_try_cannot_mend_goes_to_the_report(stopped: str | None) -> None:
    """No retry is spent where the vendor would answer the same."""
    from etl.airflow.operators import pause_after

    assert pause_after(stopped, None, may_retry=True) is None


@pytest.mark.parametrize("may_retry", [True, False])
def test_an_outage_is_waited_for_a_day_without_a_worker(may_retry: bool) -> None:
    """The task comes back as often as the step says, uses up no try, and gives up after a day: then there is a report."""
    from etl.airflow.operators import pause_after

    assert pause_after("connect_failed", 240.0, may_retry=may_retry) == 240.0
    assert pause_after("http_503", 240.0, may_retry=may_retry, is_patient=False) is None


@pytest.mark.parametrize("stopped", ["stopped", "lease_lost"])
def test_a_passing_trouble_is_retried_and_reported_when_no_try_is_left(stopped: str) -> None:
    """Retries come first; the last try does not fail, so that there is an account of the rows."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from etl.airflow.operators import pause_after

    with pytest.raises(AirflowException) as raised:
        pause_after(stopped, None, may_retry=True)
    assert not isinstance(raised.value, AirflowFailException)
    assert pause_after(stopped, None, may_retry=False) is None


@pytest.mark.parametrize("may_retry", [True, False])
def test_a_pause_that_the_vendor_asks_for_uses_up_no_try(may_retry: bool) -> None:
    """The task comes back after it, and never at once."""
    from etl.airflow.operators import pause_after

    assert pause_after("http_429", 3600.0, may_retry=may_retry) == 3600.0
    assert pause_after("throttled", None, may_retry=may_retry) == 30.0


@pytest.mark.parametrize("may_retry", [True, False])
def test_load_comes_back_when_the_vendor_may_have_ended_a_batch(may_retry: bool) -> None:
    """As long as the step says, uses up no try, and is no busy loop."""
    from etl.airflow.operators import pause_after

    assert pause_after("awaiting", 12.0, may_retry=may_retry) == 12.0
    assert pause_after("awaiting", 0.0, may_retry=may_retry) == 1.0
    assert pause_after("awaiting", None, may_retry=may_retry) == 1.0
