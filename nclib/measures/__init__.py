"""Measures: exact ones of features, layer by layer, of views of the data, through the history of a training."""
