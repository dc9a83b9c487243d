"""Comparisons with Hugging Face's Trainer and pipeline: ``python -m benchmarks`` lists them."""
