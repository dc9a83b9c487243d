"""Texts written otherwise, with the same label: one file a way."""
