"""Training: a recipe says what, the epochs do it, the store keeps what came of it."""
