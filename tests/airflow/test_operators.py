"""What the operators decide by themselves; how they run is shown in test_dag_runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("stopped", [None, "quota", "volume_unusual", "http_401", "http_403", "http_404", "http_302"])
def test_what_another_try_cannot_mend_goes_to_the_report(stopped: str | None) -> None:
    """No retry is spent where the vendor would answer the same."""
    from etl.airflow.operators import pause_after

    assert pause_after(stopped, None, may_retry=True) is None


@pytest.mark.parametrize("stopped", ["connect_failed", "timeout", "http_503", "stopped", "lease_lost"])
def test_a_passing_trouble_is_retried_and_reported_when_no_try_is_left(stopped: str) -> None:
    """Retries come first; the last try does not fail, so that there is an account of the rows."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from etl.airflow.operators import pause_after

    with pytest.raises(AirflowException) as raised:
        pause_after(stopped, 5.0, may_retry=True)
    assert not isinstance(raised.value, AirflowFailException)
    assert pause_after(stopped, 5.0, may_retry=False) is None


@pytest.mark.parametrize("may_retry", [True, False])
def test_a_pause_that_the_vendor_asks_for_uses_up_no_try(may_retry: bool) -> None:
    """The task comes back after it, and never at once."""
    from etl.airflow.operators import pause_after

    assert pause_after("http_429", 3600.0, may_retry=may_retry) == 3600.0
    assert pause_after("throttled", None, may_retry=may_retry) == 30.0


@given(first=st.floats(0.1, 100), longest=st.floats(0.1, 1000), timeout=st.floats(1, 10_000), polls=st.integers(1, 200))
def test_polls_grow_apart_up_to_a_limit_and_end_in_time(
    first: float, longest: float, timeout: float, polls: int
) -> None:
    """Each pause is at least as long as the one before, none is over `max_s`, and all are within `timeout_s`."""
    from etl.airflow.operators import next_poll

    polling, waited, pauses = {"first_s": first, "max_s": longest, "timeout_s": timeout}, 0.0, [0.0]
    for _ in range(polls):
        pause = next_poll(polling, waited)
        if pause is None:
            break
        assert pauses[-1] <= pause <= longest
        waited += pause
        pauses.append(pause)
    assert waited <= timeout


@pytest.mark.airflow
def test_a_missing_connection_is_an_error_of_configuration_that_names_its_variable() -> None:
    """A retry cannot mend it, and the message is that of the command line."""
    from etl.airflow.operators import connection
    from etl.errors import ConfigError

    with pytest.raises(ConfigError, match="AIRFLOW_CONN_NO_SUCH"):
        connection("no_such")
