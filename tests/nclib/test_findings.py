"""The page of findings: each names a claim that is judged, and says what its verdict says."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from conftest import ROOT

from nclib.evidence import findings, ledger, records
from nclib.evidence.claims import VERDICTS
from nclib.evidence.sentences import said


@pytest.mark.parametrize("finding", findings.FINDINGS, ids=lambda f: f.claim)
class TestFinding:
    def test_it_stands_on_a_claim_of_the_ledger_and_on_the_page(self, finding):
        chapter = next(claim.chapter for claim in ledger.CLAIMS if claim.id == finding.claim)
        assert (ROOT / "book" / f"{chapter}.ipynb").exists()
        page, tag = (ROOT / "book" / "findings.md").read_text(), ledger.tag(finding.claim)
        section = re.search(rf"## {re.escape(finding.title)}\n(.*?)(\n## |$)", page, re.S).group(1)
        assert f"findings-text-{tag}\n" in section and f"findings-figure-{tag}\n" in section
        assert f"`The claim <claim-{tag}>`" in section

    def test_its_sentence_is_that_of_its_verdict(self, finding):
        found = findings.measured(finding.claim, records.everything("digits"), "digits")
        for verdict in VERDICTS[:4]:
            changed = {name: replace(judgement, verdict=verdict) for name, judgement in found.items()}
            text = findings.told(finding, changed, "digits").data
            assert said(finding.claim, verdict) in text and finding.weakest in text
            assert not [v for v in VERDICTS[:4] if v != verdict and said(finding.claim, v) in text]

    def test_its_figure_has_a_panel_for_each_condition_or_says_that_nothing_was_run(self, finding):
        claim = next(claim for claim in ledger.CLAIMS if claim.id == finding.claim)
        nothing = pd.DataFrame(columns=records.COLUMNS)
        unrun = findings.measured(finding.claim, nothing, "digits")
        assert len(findings.drawn(finding, unrun, "digits").axes) == 1 and unrun["digits"].verdict == "not run"
        found = findings.measured(finding.claim, records.everything("digits"), "digits")
        figure = findings.drawn(finding, found, "digits")
        if found["digits"].seeds:
            assert [axis.get_title("left") for axis in figure.axes][: len(claim.conditions)] == [
                condition.rule for condition in claim.conditions
            ]


def test_the_page_shows_drawings_and_sentences():
    shown = findings.page(records.everything("digits"), "digits")
    assert len(shown) == 2 * len(findings.FINDINGS)
    for name, made in shown.items():
        assert made.data.startswith('<svg role="img"' if name.startswith("figure") else "<p>")
