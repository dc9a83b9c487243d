"""The version, in its one place besides pyproject.toml (a test holds them together)."""

__version__ = "0.1.0"
