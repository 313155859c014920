"""The README's tables are made from the recorded results: `python tests/test_readme.py` writes them
anew."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLES = {
    "two-hop": [sys.executable, "-m", "recycle", "table", "recycle/results/two-hop-full.json"],
    "regimes": [sys.executable, "-m", "recycle", "table", "recycle/results/two-hop-regimes.json"],
    "word-math": [
        sys.executable,
        "-m",
        "recycle",
        "table",
        "recycle/results/word-math-laptop.json",
    ],
    "theory": [sys.executable, "-m", "theory", "table"],
}


def block(name: str) -> re.Pattern:
    return re.compile(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def made(name: str) -> str:
    return subprocess.run(TABLES[name], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_the_recorded_result(name):
    found = block(name).search((ROOT / "README.md").read_text())
    assert found, f"the README has no table {name}"
    assert found[2].strip() == made(name).strip()


def test_every_table_of_the_readme_is_generated():
    readme = (ROOT / "README.md").read_text()
    rest = re.sub(r"<!-- table: .*?<!-- end -->", "", readme, flags=re.DOTALL)
    assert not re.search(r"^\|.*\d\.\d.*\|$", rest, re.M), (
        "a table with figures stands outside the generated blocks"
    )


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text()
    for name in TABLES:
        table = made(name)
        text = block(name).sub(lambda m, table=table: f"{m[1]}\n{table}\n{m[3]}", text)
    (ROOT / "README.md").write_text(text)
