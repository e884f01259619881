"""Words follow verdicts: what a page concludes is what the table on it says, whatever its parameters were."""

import json
import re

import nbformat
import pytest
from conftest import ROOT, command

from nclib.evidence.claims import VERDICTS
from nclib.evidence.ledger import CLAIMS, judged, tag
from nclib.evidence.records import read
from nclib.evidence.sentences import SAID, said

CHAPTERS = {claim.chapter for claim in CLAIMS}


def prose(chapter: str) -> str:
    cells = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_every_claim_has_a_sentence_for_every_verdict():
    assert SAID.keys() == {claim.id for claim in CLAIMS}
    for claim in SAID:
        sentences = [said(claim, verdict) for verdict in VERDICTS]
        assert len(set(sentences)) == len(VERDICTS) and all(text.endswith(".") for text in sentences)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_chapter_concludes_with_its_claims_sentences(claim):
    text = prose(claim.chapter)
    seen, summary = (text.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("What we see", "Summary"))
    asked = f"{{glue:md}}`said-{tag(claim.id)}`"
    assert asked in seen and asked in summary


@pytest.mark.parametrize("chapter", sorted(CHAPTERS))
def test_a_summary_types_no_result(chapter):
    """Beside the sentences under verdicts a summary only points on, or tells how to read."""
    summary = prose(chapter).split("\n## Summary\n")[1].split("\n## ")[0]
    typed = re.sub(r"\{glue:md\}`said-[\w-]+`", "", summary)
    for sentence in filter(None, (s.strip() for s in re.split(r"(?<=[.!?])\s", typed))):
        assert re.match(r"\{ref\}`|Compare |TRADES .* must be told apart|A layer's answer .* says little", sentence)


@pytest.mark.parametrize("chapter", sorted(CHAPTERS))
def test_captions_and_alt_texts_tell_where_to_look_and_not_what_is_seen(chapter):
    stated = (
        r"\b(?:falls|fall|rises|rise|shoots? up|vanish\w*|near zero|nearly equal|are right|are wrong|ends? as|stays?)\b"
    )
    for cell in nbformat.read(ROOT / "book" / f"{chapter}.ipynb", 4).cells:
        if "mystnb" in cell.metadata:
            assert not re.search(stated, cell.metadata.mystnb.image.alt), cell.metadata.mystnb.figure.name


@pytest.mark.expensive
@pytest.mark.parametrize("epsilon", ["0.0", "0.05"])
def test_a_page_says_what_its_table_says_at_no_budget_and_at_a_quarter(smoke, tmp_path, epsilon):
    page = tmp_path / "mine" / "attacks.ipynb"
    words = ["run", "attacks", "--profile", "smoke", "-p", "epsilon", epsilon, "-o", str(page)]
    done = command(smoke[0], *words)
    assert done.returncode == 0, done.stderr
    table = judged(read(page.with_suffix(".csv"))).set_index("id").verdict
    assert json.loads(page.with_suffix(".json").read_text())["name"] == f"smoke, epsilon {float(epsilon)}"
    cells = [cell for cell in nbformat.read(page, 4).cells if cell.cell_type == "code"]
    data = [output.get("data", {}) for cell in cells for output in cell.outputs]
    shown = ["".join(text) for found in data for kind, text in found.items() if kind.endswith("text/markdown")]
    for claim in (claim.id for claim in CLAIMS if claim.chapter == "attacks"):
        assert said(claim, table[claim]) in shown
        others = {said(claim, verdict) for verdict in VERDICTS} - {said(claim, table[claim])}
        assert not [text for text in shown if text in others], claim
    if epsilon == "0.0":
        assert table["C2"] not in ("holds", "holds in part") and table["C4"] != "holds", "nothing was attacked"
