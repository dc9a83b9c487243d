"""The engine: batches, optimizer, schedule, the loop that yields events, and checkpoints that survive."""
