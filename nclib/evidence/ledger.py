"""The ledger: every claim judged on every profile's records, as tables and boxes; and what the records cost."""

import re
from collections.abc import Iterator

import pandas as pd
from IPython.display import HTML, Markdown

from ..runtime import home
from ..seeds import words
from . import beyond, paper
from .claims import Case, Claim, Judgement, decide, judge
from .companions import COMPANIONS
from .pages import Page, glue, in_the_book
from .records import RECORDED, of, origins, own, recorded
from .sentences import said

CLAIMS = (*paper.CLAIMS, *beyond.CLAIMS)
GROUND = {
    "holds": "#cfe8dc",
    "holds in part": "#fdebc0",
    "too close to call": "#e3e0f3",
    "fails": "#f7d3c4",
    "not run": "#e6e6e6",
    "did not train": "#e6e6e6",
    "not applicable": "#e6e6e6",
}
COLUMNS = ["id", "claim", "rule", "profile", "seeds", "measured", "verdict", "chapter", "figure"]


def claim_of(claim_id: str) -> Claim:
    """A claim by its id."""
    return next(claim for claim in CLAIMS if claim.id == claim_id)


def verdict(claim_id: str, records: pd.DataFrame) -> str:
    """The verdict on one claim, by its id."""
    return judge(claim_of(claim_id), records).verdict


def judged(records: pd.DataFrame, claims: tuple[Claim, ...] = CLAIMS) -> pd.DataFrame:
    """One row per claim and profile: id, claim, rule, profile, seeds, measured, verdict, chapter, figure."""
    out = []
    for profile, of_profile in records.groupby("profile", sort=False):
        for claim, found in _decided(of_profile, claims):
            row = (claim.id, claim.text, claim.rule, profile, found.seeds, found.measured(), found.verdict)
            out.append((*row, claim.chapter, claim.figure))
    return pd.DataFrame(out, columns=COLUMNS)


def _decided(records: pd.DataFrame, claims: tuple[Claim, ...]) -> Iterator[tuple[Claim, Judgement]]:
    """Claims, judged on the records of one profile, which are looked through once for each chapter."""
    cases, nothing = {chapter: Case(of) for chapter, of in records.groupby("chapter")}, Case(records[:0])
    return ((claim, decide(claim, cases.get(claim.chapter, nothing))) for claim in claims)


def verdicts(page: Page):
    """The claims that a page has saved records for, as a styled table, verdicts coloured.

    Their ``sentences`` are glued, for the page's prose to speak as its verdicts do: ``said-c2``.
    """
    table = judged(of(page))
    table = table[table.chapter == page.chapter].assign(seeds=table.seeds.map(words))
    glue("said", **{tag(row.id): Markdown(said(row.id, row.verdict)) for row in table.itertuples()})
    shown = table[["id", "claim", "measured", "seeds", "verdict"]]
    return coloured(shown, ["verdict"]).set_table_attributes('class="claims"')


def tag(claim_id: str) -> str:
    """A claim's id in labels: "c6-fixed"."""
    return claim_id.lower().replace(" ", "-")


def overview(table: pd.DataFrame):
    """Claims by row, profiles by column, verdicts coloured: from ``judged``. A record of the profile's own name has no
    column where its verdicts are the same."""
    wide = table.pivot_table(index=["id", "claim"], columns="profile", values="verdict", aggfunc="first", sort=False)
    wide = wide.fillna("not run").reset_index().rename_axis(columns=None)
    twins = [(name, name.removesuffix(RECORDED)) for name in wide if name.endswith(RECORDED)]
    wide = wide.drop(columns=[name for name, own in twins if wide[name].equals(wide.get(own))])
    return coloured(wide, list(wide.columns[2:])).set_properties(subset=["claim"], **{"min-width": "15em"})


def coloured(table: pd.DataFrame, columns: list[str]):
    """A styled table whose verdicts, in these columns, are coloured."""
    return table.style.hide(axis="index").map(_ground, subset=columns)


def as_markdown(records: pd.DataFrame) -> str:
    """A box per claim, labelled claim-<id>: its rule, and per profile the measured figures and the verdict.

    The claim's companions stand below it.
    """
    out, table, beside = [], _once(judged(records)), _once(judged(records, COMPANIONS))
    ways = {claim.id: claim.right_way for claim in CLAIMS}
    for claim, rows in table.groupby("id", sort=False):
        first = rows.iloc[0]
        out += [
            f"(claim-{tag(claim)})=",
            f":::{{admonition}} {claim} · {first.claim}",
            ":class: note",
        ]
        out.append(f"Holds when {first.rule}. See [the figure](#{first.figure}).\n")
        out.append(f"Points the right way when: {ways[claim]}.\n")
        out += _lines(rows)
        for text, companion in beside[beside.id == claim].groupby("claim", sort=False):
            one = companion.iloc[0]
            out.append(f"\n*Companion: {text}*, when {one.rule}. See [the figure](#{one.figure}).\n")
            out += _lines(companion)
        out.append(":::\n")
    return "\n".join(out)


def boxes(records: pd.DataFrame) -> Markdown:
    """``as_markdown``, shown: in the book as boxes, in a notebook elsewhere as quotes, which all Markdown has."""
    text = as_markdown(records)
    if not in_the_book():
        text = re.sub(r" See \[the figure\]\([^)]*\)\.", "", text)
        text = re.sub(r"^\(claim-.*\)=\n:::\{admonition\} (.+)\n:class: note\n", r"**\1**\n\n", text, flags=re.M)
        text = "\n".join("" if line == ":::" else f"> {line}".rstrip() for line in text.splitlines())
    return Markdown(text)


def verdict_lines(records: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    """A line for every claim: its verdict, and, where there are records of before, whether it agrees with theirs."""
    old, lines = dict(judged(before)[["id", "verdict"]].to_numpy()), []
    for row in judged(records).itertuples():
        then = old.get(row.id)
        beside = "" if then is None else "agrees" if then == row.verdict else f"recorded: {then}"
        lines.append(f"  {row.id:13s} {row.verdict:18s} {beside:28s} {row.claim}".rstrip())
    return lines


def verdict_table(records) -> str:
    """Claims, seeds and verdicts of one profile, in Markdown."""
    rows = judged(records).itertuples()
    lines = [f"| {row.id} | {row.claim} | {words(row.seeds)} | **{row.verdict}** |\n" for row in rows]
    return "| | claim | | on digits |\n|---|---|---|---|\n" + "".join(lines)


def two_minutes(table: pd.DataFrame) -> HTML:
    """The book in four bullets, each as the verdicts of one profile have it: from ``judged``."""
    verdict, names = dict(zip(table.id, table.verdict)), {claim.id: claim.chapter for claim in CLAIMS}
    bullets = {
        "Collapse": ("C1",), "Attack": ("C2", "C3", "C4"), "Robust training": ("C5", "C6 published", "C6 fixed"),
        "Layers": ("C8", "C8a"),
    }  # fmt: skip
    lines = []
    for name, claims in bullets.items():
        sentences = " ".join(said(claim, verdict.get(claim, "not run")) for claim in claims)
        more = f'<a href="{names[claims[0]]}.html">the chapter</a>'
        lines.append(f"<li><p><strong>{name}.</strong> {sentences} See {more}.</p></li>")
    return HTML(f"<ul>{''.join(lines)}</ul>")


def against_paper(records: pd.DataFrame, profile: str):
    """The paper's values of the claims' figures, from ``book/paper_values.yml``, beside ours: a styled table.

    The file maps a claim's id to a mapping of its conditions' names to numbers. ValueError for a name that is none.
    """
    file, given = home() / "book" / "paper_values.yml", {}
    if file.exists():
        import yaml  # here, as only a checkout has the file

        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    rows = []
    for claim, judgement in _decided(records[records.profile == profile], CLAIMS):
        findings = {f.condition.name: f.mean for f in judgement.findings}
        names = [condition.name for condition in claim.conditions]
        if strange := set(given.get(claim.id, {})) - set(names):
            raise ValueError(f"{file.name}: {claim.id} has no figure {min(strange)!r}; choose from {', '.join(names)}")
        for name in names:
            theirs, ours = given.get(claim.id, {}).get(name), findings.get(name)
            both = theirs is not None and ours is not None
            rows.append((claim.id, name, theirs, ours, ours - theirs if both else None))
    if strange := set(given) - {claim.id for claim in CLAIMS}:
        raise ValueError(f"{file.name}: no claim {min(strange)!r}; choose from {', '.join(c.id for c in CLAIMS)}")
    table = pd.DataFrame(rows, columns=["claim", "figure", "paper", "ours", "difference"])
    style = table.astype({"paper": float, "ours": float, "difference": float}).style.hide(axis="index")
    style = style.format("{:.3g}", subset=["ours", "difference"], na_rep="–")
    return style.format("{:.3g}", subset=["paper"], na_rep="direction only; no value at hand")


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Without the rows of a record that say, figure by figure, what the profile's own do."""
    own = table.assign(profile=table.profile.str.removesuffix(RECORDED))
    return table[~(own.duplicated() & table.profile.str.endswith(RECORDED))]


def _lines(rows: pd.DataFrame) -> list[str]:
    """A line for every profile that ran a claim, and one for all that did not."""
    ran = rows.verdict != "not run"
    lines = [f"- *{r.profile}*, {words(r.seeds)}: **{r.verdict}**. {r.measured}" for r in rows[ran].itertuples()]
    others = ", ".join(f"*{profile}*" for profile in rows.profile[~ran])
    return lines + ([f"- **not run**: {others}."] if others else [])


def _ground(verdict: str) -> str:
    return f"background-color: {GROUND[verdict]}; color: #1a1a1a; white-space: nowrap"


def sources(profile: str) -> pd.DataFrame:
    """Where a profile's records came from: one row per chapter."""
    rows = {
        o["chapter"]: {
            "models": len(o["training_seconds"]), "seconds": o["seconds"], "device": o["device"],
            "torch": o["versions"]["torch"], "commit": o["commit"],
        }
        for o in origins(own(profile))
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("chapter")


def costs(profile: str) -> pd.DataFrame:
    """What every recorded profile took: models, seconds of training and of whole pages, memory, device."""
    rows = {}
    others = (folder for folder in (home() / "results").glob("*/records") if folder != recorded(profile))
    for found in filter(None, map(origins, [own(profile), *sorted(others)])):
        training = {key: seconds for o in found for key, seconds in o["training_seconds"].items()}
        rows[found[0]["name"]] = {
            "models": len(training),
            "training, s": round(sum(training.values())),
            "pages, s": round(sum(o["seconds"] for o in found)),
            "largest process, GB": max(o.get("peak_memory_gb", float("nan")) for o in found),
            "device": found[0]["device"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")
