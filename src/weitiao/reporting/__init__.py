"""What a run leaves for people: ``report.html`` and the model card, both made from the run folder alone.

They read ``config.yaml``, ``events.jsonl`` and ``metrics.json``, which has this shape (what is missing is
not shown)::

    {"task": "text_classification",
     "model": {"name", "tuning", "pooling", "opens_in_transformers", "parameters", "trained_parameters",
               "weights_bytes", "license"?},
     "data": {"train": {"rows", "sha256", "name"}, "test": {...}, ...},
     "data_findings": [{"code", "count", "message"}],
     "evaluation": {split: what Evaluation.report returns},
     "monitor": "accuracy",
     "engagement": {name: number, text, truth or a list of them},
     "cost": {"estimated_seconds", "actual_seconds", "estimated_memory_bytes", "actual_memory_bytes",
              "tokens_per_second"},
     "environment": {"weitiao", "torch", "python", "threads", "precision"},
     "seed": 42}
"""
