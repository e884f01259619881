"""The neighbours: one file for each chapter of part two."""
