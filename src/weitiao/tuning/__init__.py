"""Which parameters are trained, and how: one file a method."""
