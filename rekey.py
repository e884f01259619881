"""Once: records under today's keys, with their parameters and dtypes beside them. Trains nothing."""

import json
import sys
from pathlib import Path

from nclib.evidence.pages import literals
from nclib.runtime import write
from nclib.training.recipe import VERSIONS, Recipe

DTYPE = "float32"  # digits always; cifar10-mini was recorded on cores without bfloat16 units


def rekey(folder: Path) -> None:
    """``results/<profile>``: keys in records, provenance and pages."""
    new = {}
    for file in sorted((folder / "records").glob("*.json")):
        origin = json.loads(file.read_text())
        keys = {old: Recipe(**fields).key for old, fields in origin["recipes"].items()}
        page = folder / "pages" / f"{origin['chapter']}.ipynb"
        recipes = [Recipe(**fields) for fields in origin["recipes"].values()]
        head = {"name": origin["profile"], "profile": origin["profile"], "chapter": origin["chapter"]}
        head["parameters"] = literals(page) | literals(page, "injected-parameters")
        head["recipes"] = {r.key: r.canonical() for r in recipes}
        head["dtypes"] = {r.key: DTYPE for r in recipes}
        head["parts"] = {part: VERSIONS[part] for r in recipes for part in r.parts}
        head["training_seconds"] = {keys[old]: s for old, s in origin["training_seconds"].items()}
        write(file, json.dumps(head | {k: v for k, v in origin.items() if k not in head}, indent=1))
        new |= keys
    for file in [*folder.glob("records/*.csv"), *folder.glob("pages/*.ipynb")]:
        text = file.read_text()
        for old, key in new.items():
            text = text.replace(old, key)
        write(file, text)


if __name__ == "__main__":
    for place in map(Path, sys.argv[1:]):
        rekey(place)
