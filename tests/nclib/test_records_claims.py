"""Records refuse to be orphans; claims are judged by their fixed thresholds and by nothing else."""

import json
import re

import pandas as pd
import pytest
from conftest import ROOT

import nclib as nc
from nclib import claims, provenance, records
from nclib.press import execute


def row(model, measure, value, view="clean", split="train", layer="features", epoch=10, seed=1, chapter="attacks"):
    return dict(profile="digits", chapter=chapter, model=model, recipe="abc", seed=seed, epoch=epoch, split=split,
                layer=layer, view=view, measure=measure, value=value)  # fmt: skip


def verdict(claim_id, rows):
    (claim,) = [c for c in claims.CLAIMS if c.id == claim_id]
    return claims.judge(claim, pd.DataFrame(rows, columns=records.COLUMNS))[0]


def collapse_rows(accuracy=1.0, nc1=0.5, equinorm=0.1, equiangle=0.1, nc4=0.0):
    first = dict(accuracy=0.9, nc1=10.0, equinorm=0.3, equiangle=0.4, nc4=0.2)
    last = dict(accuracy=accuracy, nc1=nc1, equinorm=equinorm, equiangle=equiangle, nc4=nc4)
    return [row("standard", m, v, epoch=1) for m, v in first.items()] + [row("standard", m, v) for m, v in last.items()]


@pytest.mark.parametrize(
    "changed,expected",
    [
        ({}, "holds"),
        ({"nc1": 1.0}, "holds"),
        ({"nc1": 1.01}, "holds in part"),
        ({"nc1": 10.1}, "fails"),
        ({"accuracy": 0.9985}, "holds in part"),
        ({"accuracy": 0.8}, "fails"),
        ({"equiangle": 0.41}, "fails"),
        ({"nc4": 0.0011}, "holds in part"),
    ],
)
def test_c1_at_and_around_its_thresholds(changed, expected):
    assert verdict("C1", collapse_rows(**changed)) == expected


@pytest.mark.parametrize(
    "accuracy,nc1,equiangle,expected",
    [
        (0.10, 10, 0.2, "holds"),
        (0.11, 10, 0.2, "holds in part"),
        (0.1, 9.9, 0.2, "holds in part"),
        (0.1, 0.9, 0.2, "fails"),
    ],
)
def test_c2_at_and_around_its_thresholds(accuracy, nc1, equiangle, expected):
    rows = [row("standard", m, v) for m, v in dict(accuracy=1.0, nc1=1.0, equiangle=0.1).items()]
    attacked = dict(accuracy=accuracy, nc1=nc1, equiangle=equiangle).items()
    assert verdict("C2", rows + [row("standard", m, v, "untargeted") for m, v in attacked]) == expected


@pytest.mark.parametrize("batchnorm", ["fixed", "published"])
@pytest.mark.parametrize("ratio,expected", [(3.0, "holds"), (2.9, "holds in part"), (0.9, "fails")])
def test_c6_judges_the_two_kinds_of_trades_apart(batchnorm, ratio, expected):
    rows = [row("adversarial", "nc1", 1.0, v) for v in ("clean", "untargeted")]
    rows += [row(f"TRADES ({batchnorm})", "nc1", ratio, v) for v in ("clean", "untargeted")]
    assert verdict(f"C6 {batchnorm}", rows) == expected
    other = "published" if batchnorm == "fixed" else "fixed"
    assert verdict(f"C6 {other}", rows) == "not run"


@pytest.mark.parametrize(
    "standard,robust,expected",
    [
        ([0.6, 0.4, 0.1], [0.5, 0.6, 0.7], "holds"),
        ([0.25, 0.4, 0.21], [0.5, 0.6, 0.7], "holds in part"),
        ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], "fails"),
        ([0.6, 0.4, 0.1], [0.5, 0.47, 0.7], "holds in part"),
        ([0.6, 0.4, 0.1], [0.7, 0.6, 0.5], "fails"),
    ],
)
def test_c8_reads_the_profile_over_depth_without_the_pixels(standard, robust, expected):
    rows = []
    for model, profile in (("standard", standard), ("adversarial", robust)):
        for layer, value in zip(["pixels", "stem", "block1", "features"], [0.99, *profile]):
            rows.append(row(model, "centers_ncc_accuracy", value, "untargeted", "test", layer, chapter="layers"))
    assert verdict("C8", rows) == expected


def test_values_are_means_over_seeds():
    rows = collapse_rows(nc1=0.5) + [r | {"seed": 2} for r in collapse_rows(nc1=1.5)]
    assert verdict("C1", rows) == "holds"
    rows = collapse_rows(nc1=0.5) + [r | {"seed": 2} for r in collapse_rows(nc1=1.6)]
    assert verdict("C1", rows) == "holds in part"


def test_the_ledger_counts_the_seeds_that_have_all_records_of_a_claim():
    rows = [row("adversarial", "nc1", 1.0, view) | {"seed": s} for s in (1, 2) for view in ("clean", "untargeted")]
    rows += [row("TRADES (fixed)", "nc1", 4.0, view) for view in ("clean", "untargeted")]
    seeds = claims.ledger(pd.DataFrame(rows, columns=records.COLUMNS)).set_index("id").seeds
    assert seeds["C6 fixed"] == 1 and seeds["C6 published"] == 0


def test_a_missing_record_is_not_run_and_never_a_number():
    assert verdict("C1", collapse_rows()[1:]) == "not run"
    assert verdict("C5", [row("adversarial", "nc1", 0.1)]) == "not run"


def test_the_ledger_has_a_row_per_claim_and_profile():
    one = pd.DataFrame(collapse_rows(), columns=records.COLUMNS)
    table = claims.ledger(pd.concat([one, one.assign(profile="cifar10-mini")]))
    assert len(table) == 2 * len(claims.CLAIMS) and set(table.profile) == {"digits", "cifar10-mini"}


ORIGIN = dict(profile="digits", chapter="attacks", recipes={"abc": {}}, device="a CPU", versions={"torch": "2"},
              commit="abc", seconds=1.0)  # fmt: skip


def write(place, frame, origin):
    frame.to_csv(place / "attacks.csv", index=False)
    (place / "attacks.json").write_text(json.dumps(origin))


def test_records_survive_the_way_through_a_file_bit_for_bit(tmp_path):
    frame = pd.DataFrame([row("standard", "nc1", v) for v in (1 / 3, 1e-300, 0.1 + 0.2)], columns=records.COLUMNS)
    write(tmp_path, frame, ORIGIN)
    assert records.load(tmp_path).value.tolist() == frame.value.tolist()


@pytest.mark.parametrize("missing", ["recipes", "device", "versions", "commit"])
def test_a_record_without_its_origin_is_refused(tmp_path, missing):
    frame = pd.DataFrame([row("standard", "nc1", 1.0)], columns=records.COLUMNS)
    write(tmp_path, frame, {k: v for k, v in ORIGIN.items() if k != missing})
    with pytest.raises(ValueError, match=f"attacks.csv: refused, its provenance lacks {missing}"):
        records.load(tmp_path)


def test_a_record_without_its_file_or_its_recipe_is_refused(tmp_path):
    frame = pd.DataFrame([row("standard", "nc1", 1.0)], columns=records.COLUMNS)
    frame.to_csv(tmp_path / "attacks.csv", index=False)
    with pytest.raises(ValueError, match=r"refused, attacks\.json with its provenance is missing"):
        records.load(tmp_path)
    write(tmp_path, frame, ORIGIN | {"recipes": {"other": {}}})
    with pytest.raises(ValueError, match="no recipe given for key abc"):
        records.load(tmp_path)


def test_what_a_chapter_saves_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("NCLIB_RECORDS", str(tmp_path / "records"))
    recipe = nc.Recipe(per_class=10, test_per_class=5, width=4, epochs=1, batch=64)
    run = nc.fit(recipe, tmp_path / "runs")
    table = records.save("collapse", "digits", [run], [records.rows(run.history, run)])
    html = table.to_html()
    assert "commit" in html and f"{recipe.key}: standard, seed 1, 1 epochs" in html
    assert "learning rate down tenfold after 0.25 and 0.375" in html
    loaded = records.load(tmp_path / "records")
    assert list(loaded.columns) == records.COLUMNS and set(loaded.recipe) == {recipe.key}
    assert set(loaded.epoch) == {0, 1} and set(loaded.layer) == {"features"}
    cost = records.costs("digits").loc["digits"]
    assert cost["models"] == 1 and 0 <= cost["training, s"] <= cost["pages, s"]
    assert 0.1 < cost["largest process, GB"] < 100


@pytest.mark.parametrize(
    "origin, found",
    [
        ("https://github.com/someone/some.book.git", "https://github.com/someone/some.book"),
        ("git@github.com:someone/book.git", "https://github.com/someone/book"),
        ("https://github.com/someone/book/", "https://github.com/someone/book"),
        ("https://example.org/someone/book.git", None),
    ],
)
def test_a_public_repository_is_recognised(monkeypatch, origin, found):
    monkeypatch.setenv("NCLIB_REPOSITORY", origin)
    assert provenance.repository() == found


RECORDED = sorted(p.parent for p in (ROOT / "results").glob("*/records"))


@pytest.mark.parametrize("results", RECORDED, ids=lambda p: p.name)
def test_committed_records_give_the_verdicts_that_the_committed_ledger_page_shows(results):
    table = claims.ledger(records.load(results / "records"))
    assert set(table.profile) == {results.name}
    page = json.loads((results / "pages" / "ledger.ipynb").read_text())
    shown = "".join(
        "".join(output["data"]["text/markdown"])
        for cell in page["cells"]
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    )
    for row in table.itertuples():
        section = shown.split(f"{{admonition}} {row.id} · ")[1].split("\n:::\n")[0]
        assert re.search(rf"- \*{results.name}\*.*: \*\*{row.verdict}\*\*\. {re.escape(row.measured)}", section), row.id


@pytest.mark.parametrize("page", sorted((ROOT / "results").glob("*/pages/*.ipynb")), ids=lambda p: p.stem)
def test_a_recorded_page_names_no_folder_of_the_machine_it_ran_on(page):
    notebook = json.loads(page.read_text())
    assert "papermill" not in notebook["metadata"]
    streams = [o["name"] for c in notebook["cells"] for o in c.get("outputs", []) if o["output_type"] == "stream"]
    assert "stderr" not in streams and "ipykernel_" not in page.read_text()


def test_the_readme_shows_the_verdicts_of_the_committed_digits_records():
    table = claims.ledger(records.load(ROOT / "results" / "digits" / "records"))
    assert execute.verdict_table(table) in (ROOT / "README.md").read_text()
