"""The paper's neighbours: what the chapters of part two compute."""
