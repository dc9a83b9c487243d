"""Which texts to label next: one file a way."""
