"""Writing text token by token, over token ids alone: whatever gives scores can be written with, in torch or without."""
