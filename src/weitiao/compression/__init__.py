"""Making a trained model small: a family, one file per way."""
