"""How a trained model learns new data without forgetting what it knew: one file a way."""
