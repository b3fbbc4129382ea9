"""The sample generator: repeatable, sound where it says sound, and broken exactly as it says."""

import gzip
import re
from datetime import date
from pathlib import Path

import phonenumbers
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import contracts
from etl.errors import ConfigError
from etl.reading import read_export_file
from etl.sample import make_sample
from etl.sample_defects import CRM_DEFECTS, DAY, FATE, KIND, PLACE, POS_DEFECTS, RAW, plant

HEADERS = {
    "crm": "customer_id,email,phone,first_name,last_name,birthday,language,country,registered_at,subscribed_at,"
    "email_opt_in,sms_opt_in,consent,tags,subscriptions,loyalty_tier,city,latitude,longitude,avatar_url,updated_at",
    "pos": "transaction_id,customer_id,store_id,occurred_at,total,currency,items,category",
}
COLUMNS = {export: header.split(",") for export, header in HEADERS.items()}
MODELS = {"crm": contracts.Crm, "pos": contracts.Pos}
DEFECTS = {"crm": CRM_DEFECTS, "pos": POS_DEFECTS}
LANDING = Path(__file__).parents[1] / "data" / "landing"
COMMITTED = {"customers": 2000, "receipts": 6000, "days": 35, "seed": 2026}
LAST_DAY = date(2026, 11, 21)
RESERVED_PHONE = re.compile(
    r"\+33(19900|26191|35301|46571|53649|63998)[0-9]{4}|\+447700900[0-9]{3}|\+1[2-9][0-9]{2}55501[0-9]{2}"
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The folder and the summary of the sample that is committed, made anew."""
    folder = tmp_path_factory.mktemp("sample")
    return folder, make_sample(**COMMITTED, out=folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """By export, the frame of one day without defects."""
    folder = tmp_path_factory.mktemp("sound")
    make_sample(customers=3000, receipts=3000, days=1, seed=5, out=folder, defect_share=0, crm_days=1)
    return {
        export: pl.read_csv(folder / export / str(LAST_DAY) / name, infer_schema=False)
        for export, name in (("crm", "customers.csv"), ("pos", "receipts.csv"))
    }


def _files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.glob("*/*/*"))}


def _content(path):
    """What is in a file, apart from how a library of this version packs it."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).write_csv()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _read(path):
    """The rows that can be parsed, blanks as null, and the number of records that cannot."""
    columns = COLUMNS[path.parts[-3]]
    blocks = list(
        read_export_file(
            path, format=path.name.partition(".")[2], columns={}, wanted=columns, required=columns, name=path.name
        )
    )
    rows = contracts.blank_to_null(pl.concat([block.rows.select(columns) for block in blocks]))
    return rows, sum(block.unparsable.height for block in blocks)


def test_same_arguments_make_the_same_bytes(sample, tmp_path):
    """A sample can be made again, byte for byte, packed files included; another seed makes another sample."""
    folder, summary = sample
    assert make_sample(**COMMITTED, out=tmp_path / "again") == summary
    make_sample(**COMMITTED | {"seed": 1}, out=tmp_path / "other")
    again, other = _files(tmp_path / "again"), _files(tmp_path / "other")
    for name, path in _files(folder).items():
        assert again[name].read_bytes() == path.read_bytes()
        assert other[name].read_bytes() != path.read_bytes()


def test_the_committed_sample_comes_from_the_generator(sample):
    """Nobody edits the committed sample by hand."""
    committed = _files(LANDING)
    made = _files(sample[0])
    assert committed.keys() == made.keys()
    assert [name for name in made if _content(made[name]) != _content(committed[name])] == []


def test_the_committed_sample_is_small():
    """A checkout stays light: under 3 MB."""
    assert sum(path.stat().st_size for path in _files(LANDING).values()) < 3_000_000


def test_a_sample_shows_every_format_that_may_land(sample):
    """Plain, packed, NDJSON, Parquet, a BOM with CRLF, and a last line without end; `plain` makes CSV only."""
    files = _files(sample[0])
    assert {path.name.partition(".")[2] for path in files.values()} == {"csv", "csv.gz", "ndjson", "parquet"}
    texts = [path.read_bytes() for path in files.values() if path.suffix == ".csv"]
    assert any(text.startswith(b"\xef\xbb\xbf") and b"\r\n" in text for text in texts)
    assert any(not text.endswith(b"\n") for text in texts)
    assert any(b"\n\n" in text for text in texts)


def test_plain_samples_are_csv_only(tmp_path):
    """Benchmarks read one format, and one CRM day where they ask for one."""
    summary = make_sample(customers=50, receipts=100, days=12, seed=3, out=tmp_path, crm_days=1, plain=True)
    assert {name.partition(".")[2] for name in summary.files} == {"csv"}
    assert [name for name in summary.files if name.startswith("crm/")] == [f"crm/{LAST_DAY}/customers.csv"]


def test_files_hold_what_the_summary_says(sample):
    """Each file is readable as a whole, in the spec's columns, and has as many records as the summary counts."""
    folder, summary = sample
    files = _files(folder)
    assert files.keys() == summary.files.keys()
    unparsable = 0
    for name, path in files.items():
        rows, broken = _read(path)
        assert rows.height + broken == summary.files[name], name
        unparsable += broken * (name == f"crm/{LAST_DAY}/customers.csv")
    assert unparsable == summary.crm.rows["unparsable"]


def test_every_kind_of_defect_is_planted_in_its_share(sample, tmp_path):
    """Small samples have each kind once; in large ones the kinds share `defect_share` equally, give or take one."""
    assert sample[1].crm.kinds == {defect.kind: 1 for defect in CRM_DEFECTS}
    # The receipts' summary leaves out the days before the window, and what is sent again after the last day.
    assert sample[1].pos.kinds.keys() == {defect.kind for defect in POS_DEFECTS}
    large = make_sample(customers=20_000, receipts=0, days=1, seed=8, out=tmp_path, defect_share=0.05, crm_days=1)
    assert sum(large.crm.kinds.values()) == 1000
    assert max(large.crm.kinds.values()) - min(large.crm.kinds.values()) <= 1


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    customers=st.integers(1, 400),
    receipts=st.integers(0, 400),
    days=st.sampled_from([1, 2, 32]),
    share=st.sampled_from([0.0, 0.02, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_the_account_of_a_sample_balances(tmp_path_factory, customers, receipts, days, share, seed):
    """Every record has exactly one expected outcome, whatever the size of the sample."""
    summary = make_sample(
        customers=customers,
        receipts=receipts,
        days=days,
        seed=seed,
        out=tmp_path_factory.mktemp("any"),
        defect_share=share,
        crm_days=2,
    )
    for account in (summary.crm, summary.pos):
        assert sum(account.rows.values()) == account.records
        assert all(count >= 0 for count in account.rows.values())
    assert summary.crm.records >= customers


@pytest.mark.parametrize("export", ["crm", "pos"])
def test_sound_rows_keep_the_contract(sound, export):
    """Without defects there is nothing to quarantine, and the columns are the spec's."""
    assert sound[export].columns == COLUMNS[export]
    assert contracts.check(MODELS[export], contracts.blank_to_null(sound[export])).codes.null_count() == 3000


@pytest.mark.parametrize(
    ("export", "index"),
    [
        pytest.param(export, index, id=f"{export}-{defect.kind}")
        for export, table in DEFECTS.items()
        for index, defect in enumerate(table)
        if RAW not in defect.changes
    ],
)
def test_a_defect_breaks_the_rules_that_it_names_and_no_other(sound, export, index):
    """The codes of the table are those that the contract finds in the spoiled row."""
    helpers = {PLACE: 0.0, DAY: str(LAST_DAY), KIND: index, FATE: "valid"}
    base = sound[export].head(20).with_columns(pl.lit(value).alias(name) for name, value in helpers.items())
    planted = plant(base.with_columns(pl.col(KIND).cast(pl.Int16)), DEFECTS[export])
    spoiled = planted.filter(pl.col(KIND).is_not_null()).select(COLUMNS[export])
    defect = DEFECTS[export][index]
    expected = {code for code in defect.codes if code != "newer_version_quarantined"}
    codes = contracts.check(MODELS[export], contracts.blank_to_null(spoiled)).codes.to_list()
    assert len(codes) == 20
    assert all(set(found or ()) == expected for found in codes)
    assert planted.height == (40 if defect.is_second else 20)


def test_addresses_are_nobodys(sample, sound):
    """Mail goes to domains reserved for examples, calls to numbers kept for fiction; sound numbers are possible ones."""
    for path in _files(sample[0]).values():
        rows, _ = _read(path)
        for mail in rows["email"].drop_nulls() if "email" in rows.columns else ():
            assert "@" not in mail or mail.endswith(("@example.org", "@example.com", "@example.net", "@"))
    customers = sound["crm"]
    assert customers["email"].drop_nulls().is_unique().all()
    for number in customers["phone"].drop_nulls():
        assert RESERVED_PHONE.fullmatch(number)
        assert phonenumbers.is_possible_number(phonenumbers.parse(number))


def test_customers_change_a_little_from_day_to_day(sample):
    """About 3% of the customers differ from the day before, all of them with a new updated_at; a few are new."""
    folder, _ = sample
    before, _ = _read(folder / "crm/2026-11-20/customers.csv.gz")
    after, _ = _read(folder / f"crm/{LAST_DAY}/customers.csv")
    both = after.unique("customer_id", keep="none").join(before, on="customer_id", how="inner", suffix="_before")
    updated = pl.col("updated_at").ne_missing(pl.col("updated_at_before"))
    others = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(f"{name}_before"))
        for name in ("loyalty_tier", "city", "email_opt_in", "phone", "tags")
    )
    assert 0.02 < both.filter(updated).height / both.height < 0.045
    assert both.filter(others & ~updated).is_empty()
    assert after.height == before.height + 2


@pytest.mark.parametrize("folder", ["crm", "pos"])
def test_a_landing_folder_in_use_is_left_alone(tmp_path, folder):
    """Invented customers never land beside real ones."""
    (tmp_path / folder).mkdir()
    with pytest.raises(ConfigError, match="holds exports already"):
        make_sample(customers=10, receipts=0, days=1, seed=1, out=tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"customers": 0}, {"receipts": -1}, {"days": 0}, {"crm_days": 0}, {"defect_share": 1.5}]
)
def test_senseless_sizes_are_refused(tmp_path, wrong):
    """A size that makes no sample is the caller's mistake, and nothing is written."""
    with pytest.raises(ConfigError):
        make_sample(**{"customers": 10, "receipts": 0, "days": 1, "seed": 1, "out": tmp_path} | wrong)
    assert list(tmp_path.iterdir()) == []
