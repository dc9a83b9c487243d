"""What is to be learnt from a table's rows: one file a task."""
