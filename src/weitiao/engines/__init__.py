"""Engines: what runs an ONNX graph. ``base.py`` is the contract; one file a member."""
