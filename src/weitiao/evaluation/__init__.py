"""What a model is worth: scores with their uncertainty, the baseline beside them, and where it fails."""
