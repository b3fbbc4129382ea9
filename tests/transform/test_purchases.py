"""Receipts: each in exactly one bucket, and the attributes that the spec derives from those of known customers."""

from collections import defaultdict

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.transform.purchases import summarise_purchases

COLUMNS = ("customer_id", "store_id", "transaction_id", "occurred_at", "total", "category")


def _receipts(*rows: dict[str, str | None]) -> pl.DataFrame:
    schema = {"row": pl.UInt64, **dict.fromkeys(COLUMNS, pl.String)}
    return pl.DataFrame([{"row": n, **row} for n, row in enumerate(rows)], schema=schema)


def _receipt(number: int, **overrides: str | None) -> dict[str, str | None]:
    row = {"customer_id": "A", "store_id": "S1", "transaction_id": f"T{number}", "total": "10.00", "category": "books"}
    return {**row, "occurred_at": f"2026-11-20T{number:02d}:00:00Z", **overrides}


def _customer(found, name: str = "A"):
    return _rows(found)[CUSTOMERS.to_list().index(name)]


def _rows(found):
    return found.of(0, len(CUSTOMERS)).to_dicts()


CUSTOMERS = pl.Series(["A", "B"])


def test_three_receipts_of_a_customer():
    """Orders, spend and the last purchase of one; a customer without receipts has bought nothing."""
    found = summarise_purchases(_receipts(_receipt(1), _receipt(3, total="2.5"), _receipt(2, store_id="S2")), CUSTOMERS)
    assert found.by_customer.height == 1
    assert (_customer(found, "B")["orders_30d"], _customer(found, "B")["spend_30d"]) == (0, 0.0)
    assert _customer(found) == {
        "orders_30d": 3,
        "spend_30d": 22.5,
        "last_purchase_at": "2026-11-20T03:00:00Z",
        "last_store": "S1",
        "favourite_category": "books",
    }


def test_a_return_lowers_the_spend_and_is_no_order():
    """Negative and zero totals count for the money only."""
    found = summarise_purchases(_receipts(_receipt(1), _receipt(5, total="-4.01"), _receipt(6, total="0")), CUSTOMERS)
    customer = _customer(found)
    assert (customer["orders_30d"], customer["spend_30d"]) == (1, 5.99)
    assert customer["last_purchase_at"] == "2026-11-20T01:00:00Z"


def test_only_returns_leave_the_purchase_attributes_without_a_value():
    """Nothing was bought in the window, so there is no last purchase and no favourite."""
    customer = _customer(summarise_purchases(_receipts(_receipt(1, total="-4")), CUSTOMERS))
    assert (customer["orders_30d"], customer["spend_30d"]) == (0, -4.0)
    assert customer["last_purchase_at"] is customer["last_store"] is customer["favourite_category"] is None


def test_the_same_receipt_counts_once():
    """Store, transaction and moment are the identity; the moment may be written in another offset."""
    same = _receipt(1, occurred_at="2026-11-20T02:00:00+01:00", total="99")
    found = summarise_purchases(_receipts(_receipt(1), same, _receipt(1, store_id="S2")), CUSTOMERS)
    assert (found.deduplicated, found.used) == (1, 2)
    assert _customer(found)["spend_30d"] == 20.0


def test_buckets_are_judged_in_order():
    """Deduplicated before anonymous, anonymous before orphaned."""
    found = summarise_purchases(
        _receipts(
            _receipt(1, customer_id=None), _receipt(1, customer_id=None), _receipt(2, customer_id="Z"), _receipt(3)
        ),
        CUSTOMERS,
    )
    assert (found.deduplicated, found.anonymous, found.orphaned, found.used) == (1, 1, 1, 1)


def test_favourite_category_ties():
    """Most receipts, then the most recent, then the alphabet; blanks do not count."""
    tie_by_time = (_receipt(1, category="toys"), _receipt(2, category="books"))
    assert _customer(summarise_purchases(_receipts(*tie_by_time), CUSTOMERS))["favourite_category"] == "books"
    at = "2026-11-20T09:00:00Z"
    tie_by_name = (_receipt(1, category="toys", occurred_at=at), _receipt(2, category="books", occurred_at=at))
    assert _customer(summarise_purchases(_receipts(*tie_by_name), CUSTOMERS))["favourite_category"] == "books"
    blanks = (_receipt(1, category=None), _receipt(2, category=None), _receipt(3, category="toys"))
    assert _customer(summarise_purchases(_receipts(*blanks), CUSTOMERS))["favourite_category"] == "toys"


def test_the_last_store_may_have_no_name():
    """The latest receipt decides, also where its store is blank."""
    found = summarise_purchases(_receipts(_receipt(1), _receipt(2, store_id=None)), CUSTOMERS)
    assert _customer(found)["last_store"] is None


def test_no_receipts_at_all():
    """An empty window is an ordinary one."""
    found = summarise_purchases(_receipts(), CUSTOMERS)
    assert ([row["orders_30d"] for row in _rows(found)], found.used) == ([0, 0], 0)


def test_neighbours_can_be_asked_for_apart():
    """Two halves say what the whole says, wherever it is cut."""
    customers = pl.Series(["A", "B", "C", "D"])
    found = summarise_purchases(_receipts(_receipt(1), _receipt(2, customer_id="D")), customers)
    for cut in range(5):
        assert pl.concat([found.of(0, cut), found.of(cut, 4 - cut)]).equals(found.of(0, 4))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "customer_id": st.sampled_from(["A", "B", "Z", None]),
            "store_id": st.sampled_from(["S1", "S2", None]),
            "transaction_id": st.sampled_from(["T1", "T2", "T3"]),
            "occurred_at": st.sampled_from([f"{year}-11-20T0{n}:00:00Z" for year in (1903, 2026) for n in range(3)]),
            "total": st.decimals(-50, 50, places=2).map(str),
            "category": st.sampled_from(["books", "toys", "garden", None]),
        }
    ),
    max_size=25,
)


def _reference(rows):
    """The rules as a loop over rows."""
    seen, buckets, theirs = set(), defaultdict(int), defaultdict(list)
    for row in rows:
        identity = (row["store_id"], row["transaction_id"], row["occurred_at"])
        if identity in seen:
            buckets["deduplicated"] += 1
        elif row["customer_id"] is None:
            buckets["anonymous"] += 1
        elif row["customer_id"] == "Z":
            buckets["orphaned"] += 1
        else:
            buckets["used"] += 1
            theirs[row["customer_id"]].append(row)
        seen.add(identity)
    return buckets, {customer: _attributes(mine) for customer, mine in theirs.items()}


def _attributes(mine):
    cents = [round(float(row["total"]) * 100) for row in mine]
    bought = [row for row, amount in zip(mine, cents, strict=True) if amount > 0]
    latest = max(enumerate(bought), key=lambda pair: (pair[1]["occurred_at"], pair[0]))[1] if bought else None
    categories = {row["category"] for row in bought} - {None}
    favourite = min(
        categories,
        key=lambda c: (
            -sum(row["category"] == c for row in bought),
            [-ord(x) for x in max(row["occurred_at"] for row in bought if row["category"] == c)],
            c,
        ),
        default=None,
    )
    return {
        "orders_30d": len(bought),
        "spend_30d": sum(cents) / 100,
        "last_purchase_at": latest and latest["occurred_at"],
        "last_store": latest and latest["store_id"],
        "favourite_category": favourite,
    }


@given(ROWS)
def test_equal_to_the_rules_as_a_loop(rows):
    """Every receipt has one bucket, and every attribute is what the rules say."""
    found = summarise_purchases(_receipts(*rows), CUSTOMERS)
    buckets, customers = _reference(rows)
    assert {name: getattr(found, name) for name in ("deduplicated", "anonymous", "orphaned", "used")} == {
        name: buckets[name] for name in ("deduplicated", "anonymous", "orphaned", "used")
    }
    nothing = _attributes([])
    assert _rows(found) == [customers.get(name, nothing) for name in CUSTOMERS]
