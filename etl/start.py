"""Start: the file that `profile-etl init` writes, a sync of a company's own export to be changed line by line."""

from __future__ import annotations

from pathlib import Path

from etl.errors import ConfigError

START = """\
# Your syncs, in the place of those in etl/syncs.py. Each table is one: a Dag, and a name on the command line.
[shop_to_batch]
destination = "batch"           # docs/destinations/README.md has all of them
connection = "batch_default"    # the account: AIRFLOW_CONN_BATCH_DEFAULT, or a connection of Airflow
timezone = "Europe/Berlin"
pos = false                     # no POS exports; without this line they are looked for

[shop_to_batch.crm]
delimiter = ";"
encoding = "cp1252"

# Your header = our name; docs/contracts.md has all of ours, and their rules. Headers that are ours need no line.
[shop_to_batch.crm.columns]
KUNDENNR = "customer_id"
MAIL = "email"
MOBIL = "phone"
VORNAME = "first_name"
NACHNAME = "last_name"
ORT = "city"
NEWSLETTER = "email_opt_in"
GEAENDERT = "updated_at"

# Your header = the attribute's name at the vendor, for columns that are none of ours. They are sent as texts.
[shop_to_batch.attributes]
LIEBLINGSMARKE = "favourite_brand"
SCHUHGROESSE = "shoe_size"
"""


def write_start(output: Path) -> None:
    """Writes the file; raises ConfigError where there is one already, or none can be."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(START)
    except FileExistsError:
        raise ConfigError(f"{output} is there already, and was left as it is: choose another --output") from None
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None
