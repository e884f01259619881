"""A book of two small chapters that train one small network: what the press does with it takes seconds."""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PYTHON = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
PARAMETERS = dict(profile="small", per_class=20, test_per_class=5, width=4, epochs=2, batch=20, seeds=[1])
TRAINING = """
import nclib as nc
from nclib.evidence import records

page = nc.page("{name}", globals())
recipe = nc.Recipe(per_class=per_class, test_per_class=test_per_class, width=width, epochs=epochs, batch=batch)
runs = nc.fit_all([recipe.but(seed=seed) for seed in seeds])
"""
SAVING = """
tables = [records.rows({measured}, run) for run in runs]
records.save(page, runs, tables)
"""
CHAPTERS = {  # name -> parameters of its own, and what it measures of a run
    "collapse": ({}, "run.history"),
    "attacks": ({"epsilon": 0.1}, "nc.collapse(run.model, nc.views(run.model, run.data, epsilon=epsilon))"),
}


def small_house(place: Path, **profile) -> Path:
    """A house with the small book and a profile "small" that sets what it is given."""
    for folder in ("book", "profiles", "sweeps"):
        (place / folder).mkdir()
    toc = {"root": "intro", "parts": [{"chapters": [{"file": name} for name in CHAPTERS]}]}
    (place / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    (place / "profiles" / "small.yml").write_text(yaml.safe_dump(profile))
    for name, (own, measured) in CHAPTERS.items():
        literals = "\n".join(f"{key} = {value!r}" for key, value in {**PARAMETERS, **own}.items())
        cells = [
            new_markdown_cell(f"# {name}", id="title"),
            new_code_cell(literals, id="parameters", metadata={"tags": ["parameters"]}),
            new_code_cell(TRAINING.format(name=name).strip(), id="training"),
            new_code_cell(SAVING.format(measured=measured).strip(), id="saving"),
        ]
        nbformat.write(new_notebook(cells=cells, metadata=PYTHON), place / "book" / f"{name}.ipynb")
    return place
