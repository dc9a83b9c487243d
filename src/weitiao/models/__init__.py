"""Backbones, heads, where their weights come from and how they are saved."""
