"""Objectives of pretraining: what a corpus is turned into, and what is predicted of it."""
