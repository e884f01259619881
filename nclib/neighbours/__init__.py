"""The paper's neighbours: one module for each chapter of part two."""
