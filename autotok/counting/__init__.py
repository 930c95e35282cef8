"""Exact cost: the formula, the independent counter, adaptive methods over images."""
