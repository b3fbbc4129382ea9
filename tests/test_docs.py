"""What the documents say can be done, is done here."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.main import get_command

from etl.cli import app
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.server import start
from etl.ledger import Ledger
from etl.ledger.schema import metadata

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


def _commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = (line.split("#")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def test_the_readme_commands_work_in_their_order(tmp_path):
    """Each `profile-etl` command of the README, on the committed sample, against the emulator."""
    with start() as url:
        connection = {
            "conn_type": "batch", "host": url, "password": DEMO_API_KEY, "extra": {"project_key": DEMO_PROJECT},
        }  # fmt: skip
        environment = os.environ | {
            "PROFILE_ETL_WORK": str(tmp_path),
            "AIRFLOW_CONN_BATCH_DEFAULT": json.dumps(connection),
        }
        commands = [shlex.split(line)[1:] for line in _commands(README) if line.startswith(".venv/bin/profile-etl")]
        codes = {}
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-c", "from etl.cli import main; main()", *command],
                env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            codes[command[0]] = done.returncode
    # The sample has planted defects, which is exit code 1.
    assert codes == {"doctor": 0, "plan": 0, "run": 1, "report": 1, "status": 0, "retry": 0}


def test_every_make_target_that_is_named_exists():
    """`make X` in a document is a target of the Makefile."""
    named = {
        target for path in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "airflow"} <= named
    assert named <= targets


def test_every_command_and_option_that_is_named_exists():
    """`profile-etl X --option` in a document is a command with that option."""
    commands = get_command(app).commands
    for path in DOCUMENTS:
        for name, rest in re.findall(r"profile-etl ([a-z]+)\b([^`\n|]*)", path.read_text()):
            if name in commands:
                inside = getattr(commands[name], "commands", {})  # of a group, the next word is the command
                command = inside[rest.split()[0]] if inside and rest.strip() else commands[name]
                known = {option for parameter in command.params for option in parameter.opts}
                assert set(re.findall(r"(?<!\S)--[a-z-]+", rest.split("#")[0])) <= known | {"--help"}, (path.name, name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    """Links between files of the project are kept whole."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_readme_names_every_exit_code():
    """What a shell script can rely on is told to people."""
    assert re.findall(r"^\| (\d) \|", README, re.MULTILINE) == ["0", "1", "2", "3", "4"]


def test_the_queries_of_the_ledgers_page_are_answered(tmp_path):
    """Each of them, by a ledger as this version makes it; and the page names every table."""
    page = (ROOT / "docs" / "ledger.md").read_text()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with ledger.reading() as db:
        answers = [db.execute(sa.text(query)).all() for query in re.findall(r"```sql\n(.*?)```", page, re.DOTALL)]
    ledger.close()
    assert answers == [[], [], []]
    assert set(metadata.tables) <= set(re.findall(r"`([a-z_]+)`", page))
