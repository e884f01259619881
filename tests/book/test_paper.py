"""The book on paper."""

import re
import shutil
import subprocess

import pytest
from conftest import command
from reading import SOURCES, prose

from press import profiles

pytestmark = pytest.mark.expensive


@pytest.fixture(scope="module")
def paper(smoke):
    if not shutil.which("chromium"):
        pytest.skip("no chromium on this machine")
    done = command(smoke[0], "pdf", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(smoke[0] / "_build" / "smoke" / "book.pdf")
    return smoke[0] / "_build" / "smoke" / "book.pdf"


def test_the_pdf_has_every_chapter_in_its_outline(paper):
    content = paper.read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) > 30
    outline = [title.decode("latin-1") for title in re.findall(rb"/Title \(([^)]*)\)", content)]
    for chapter in profiles.chapters():
        title = re.search(r"^# (.+)$", prose(profiles.source(chapter)), re.M)[1]
        assert any(line.endswith(title) for line in outline), title


def test_the_pdf_shows_typeset_mathematics_solutions_and_no_other_scale(paper):
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine")
    text = subprocess.run(["pdftotext", paper, "-"], capture_output=True, text=True).stdout
    assert not re.findall(r"\\(?:\(|\[|mathrm|frac|sum)", text), "raw TeX"
    solutions = sum(prose(source).count("{solution-start}") for source in SOURCES)
    assert len(re.findall(r"^\f?Solution to", text, re.M)) == solutions > 10
    assert "after collapse the two rules are all but one" in text.replace("\n", " ").lower()
    assert "at another scale" not in text
