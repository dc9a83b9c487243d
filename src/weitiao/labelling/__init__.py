"""Labelling: what to label next, the page to label on, label noise, agreement. One answer a text."""
