"""How a model learns from few labelled texts: one file a method."""
