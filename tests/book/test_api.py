"""The page of functions: each public name with an example that runs, and whose last line is true."""

import re

import pytest
import yaml
from conftest import ROOT

import nclib as nc
from press import api

EXAMPLES = yaml.safe_load((ROOT / "book" / "examples.yml").read_text("utf-8"))
(START,) = re.findall(r"```python\n(.*?)```", (ROOT / "book" / "api.md").read_text("utf-8"), re.S)


@pytest.fixture(scope="module")
def names():
    return api.every_name()


@pytest.mark.parametrize("name", [name for name in nc.__all__ if name not in api.MODULES])
def test_an_example_of_two_lines_runs_and_is_true(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    assert name in EXAMPLES, "two lines for it in book/examples.yml"
    first, last = EXAMPLES[name].strip().splitlines()
    assert len(first) < 90 and re.search(rf"\bnc\.{name}\b|digits = nc", EXAMPLES[name])
    known = {}
    exec(START, known)
    exec(first, known)
    assert eval(last, known) is True


def test_every_public_name_has_an_entry_with_its_own_words(names):
    page, entries = api.functions_page(), {name: it for found in names.values() for name, it in found.items()}
    assert {f"nc.{name}" for name in nc.__all__ if name not in api.MODULES} <= entries.keys()
    assert {"nc.records.pick", "nc.ledger.judged", "nc.figures.panels"} <= entries.keys()
    for name, it in entries.items():
        assert f"({api.label_of(name)})=\n### `{name}`\n" in page and it.__doc__, name
    labels = [api.label_of(name) for name in entries]
    assert len(set(labels)) == len(labels)
    assert "epsilon: float | Tensor=8 / 255" in page and "0x" not in page


def test_names_in_code_lead_to_entries_and_nothing_else_does():
    known = {"nc.pgd": "api-pgd", "nc.ClassMeans": "api-classmeans"}
    text = "# `nc.pgd`\nUse `nc.pgd` or `nc.ClassMeans.means`, not `nc.x`, ``nc.pgd``, [`nc.pgd`](a)."
    text += "\n```python\n`nc.pgd`\n```"
    assert api.with_links(text, known) == (
        "# `nc.pgd`\nUse [`nc.pgd`](api-pgd) or [`nc.ClassMeans.means`](api-classmeans), not `nc.x`, ``nc.pgd``, "
        "[`nc.pgd`](a).\n```python\n`nc.pgd`\n```"
    )
