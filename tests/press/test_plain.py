"""MyST in plain words, one kind after another; and cells that say their numbers."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nclib.evidence import pages
from press import plain

WORDS = {"ch-attacks": "*Attacks*", "eq-a": "(1)", "fig-b": "Figure 2", "def-c": "Definition “Leap”"}


def said(text, cited=None):
    return plain.to_markdown(text, WORDS, [] if cited is None else cited)


@pytest.mark.parametrize(
    "myst,expected",
    [
        ("See {ref}`ch-attacks`, {eq}`eq-a`.", "See *Attacks*, (1)."),
        ("{ref}`the ledger <ch-ledger>` and {numref}`fig-b`", "the ledger and Figure 2"),
        ("{prf:ref}`def-c`, {term}`view`, {some-role}`word`", "Definition “Leap”, view, word"),
        ("{glue:text}`a-b:.2f` {glue:md}`said-c1`", "{{a-b:.2f}} {{said-c1}}"),
        ("(ch-x)=\n# Title", "# Title"),
        ("$$\nx\n$$ (eq-a)", "$$\nx\n\\tag{1} $$"),
        ("[names](notation.md), [web](https://a.b)", "*names*, [web](https://a.b)"),
        ("```{admonition} Note\n:class: tip\nOne.\n```", "> **Note.** One."),
        ("```{prf:definition} Leap\n:label: def-c\nOne.\nTwo.\n```", "> **Definition (Leap).** One.\n> Two."),
        ("```{warning}\nHot.\n```", "> **Warning.** Hot."),
        ("```{exercise} Go\n:label: ex-1\nDo {eq}`eq-a`.\n```", "### Exercise: Go\n\nDo (1)."),
        ("````{solution-start} ex-1\n:class: dropdown\n````\n\nSo.", "**Solution**\n\nSo."),
        ("````{solution-end}\n````\nNext", "Next"),
        (":::{dropdown} Why?\nSo.\n:::", "<details><summary>Why?</summary>\n\nSo.\n\n</details>"),
        ("```{glue:figure} a-player\n:name: fig-b\n\nDrag.\n```", "{{a-player}}\n\n> **Figure 2.** Drag."),
        (":::{note}\n```{tip} T\nIn.\n```\n:::", "> **Note.** > **T.** In."),
        ("```python\nx = {ref}`a`\n```", "```python\nx = {ref}`a`\n```"),
        ("```{index} a; b\n```\n\nText", "Text"),
    ],
)
def test_each_kind_of_myst_becomes_words(myst, expected):
    assert said(myst) == expected


def test_citations_name_people_and_are_listed():
    cited = []
    assert said("{cite}`su2024robustness,papyan2020prevalence` {cite:t}`lu2022neural`", cited) == (
        "(Su et al., 2024; Papyan et al., 2020) Lu and Steinerberger (2022)"
    )
    page = new_notebook(cells=[new_markdown_cell("By {cite:t}`papyan2020prevalence`.")])
    *_, last = plain.without_myst(page).cells
    assert last.source.startswith("## References") and "https://doi.org/10.1073/pnas.2015509117" in last.source


@pytest.mark.parametrize("key", plain._bibliography())
def test_everything_cited_has_a_title_with_a_link(key):
    entry = plain._entry(key)
    known = any(plain._bibliography()[key].fields.get(name) for name in ("url", "doi", "eprint"))
    assert "None" not in entry and "{" not in entry and ("](http" in entry) == known


def test_a_source_says_its_numbers_by_cells_and_an_executed_page_has_them():
    text = "## Seen\n\nIt is {glue:text}`my-number:.1f`.\n\nThat is {glue:md}`said-c1`\n\nAll."
    page = new_notebook(cells=[new_markdown_cell(text, id="a")])
    kinds = [(cell.cell_type, cell.source) for cell in plain.without_myst(page).cells]
    saying = 'nc.prose(r"""\nIt is {{my-number:.1f}}.\n\nThat is {{said-c1}}\n""")'
    assert kinds == [("markdown", "## Seen"), ("code", saying), ("markdown", "All.")]
    glued = {"my-number": {"text/plain": "0.251"}, "said-c1": {"text/plain": "<it>", "text/markdown": "It holds."}}
    outputs = [
        new_output(
            "display_data", {plain.RECORD + k: v for k, v in data.items()}, metadata={"scrapbook": {"name": name}}
        )
        for name, data in glued.items()
    ]
    page.cells.append(new_code_cell("glue()", outputs=outputs))
    text, cell = plain.without_myst(page).cells
    assert text.source == "## Seen\n\nIt is 0.3.\n\nThat is It holds.\n\nAll." and not cell.outputs


def test_prose_waits_for_its_numbers(monkeypatch):
    shown = []

    class Handle:
        def update(self, it):
            shown.append(it.data)

    monkeypatch.setattr(pages, "display", lambda it, display_id: shown.append(it.data) or Handle())
    monkeypatch.setattr(pages, "GLUED", {})
    monkeypatch.setattr(pages, "SHOWN", [])
    monkeypatch.delenv("NCLIB_RECORDS", raising=False)
    pages.prose("NC1 is {{my-nc1:.2f}}, {{my-word}}.")
    pages.glue("my", nc1=0.126)
    pages.glue("my", word="so")
    assert shown == ["NC1 is …, ….", "NC1 is 0.13, ….", "NC1 is 0.13, so."]


def test_a_value_alone_is_shown_as_what_it_is():
    player = object()
    assert pages.filled("{{my-player}}", {"my-player": player}) is player


def test_glue_leaves_what_myst_nb_reads(monkeypatch):
    from myst_nb import glue

    left = []
    monkeypatch.setattr(pages, "display", lambda data, raw, metadata: left.append((data, metadata)))
    monkeypatch.setattr("myst_nb.ext.glue.ipy_display", lambda data, raw, metadata: left.append((data, metadata)))
    monkeypatch.setenv("NCLIB_RECORDS", "somewhere")
    pages.glue("my", number=0.25)
    glue("my-number", 0.25, display=False)
    assert left[0] == left[1]
