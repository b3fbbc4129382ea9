"""Whether tests of every case run, or a sample of them: PROFILE_ETL_SOAK=1 takes hours where `make test` takes minutes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

SOAK = os.environ.get("PROFILE_ETL_SOAK") == "1"
Case = TypeVar("Case")


def every(cases: Sequence[Case], sample: int) -> Sequence[Case]:
    """All cases under soak; else about `sample` of them, evenly spread, the first and the last among them."""
    if SOAK or len(cases) <= sample:
        return cases
    return [cases[round(n * (len(cases) - 1) / (sample - 1))] for n in range(sample)]
