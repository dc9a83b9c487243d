"""Train only the embeddings a corpus uses.

A multilingual encoder keeps most of its parameters in the embeddings of pieces that a given corpus never uses. Their
gradient is zero, so (without weight decay on embeddings) AdamW leaves them as they are: taking them out of the training
changes nothing but the time and memory that the optimizer, clipping and checkpoints spend on them.
"""

import numpy as np
import torch
from torch import nn


class CompactEmbeddings:
    """Replaces an encoder's word embeddings by the rows in use, and puts the whole table back with ``restore``."""

    def __init__(self, encoder: nn.Module, used: np.ndarray) -> None:
        self.embeddings = encoder.embeddings
        self.used = np.unique(used)
        self.whole: torch.Tensor = self.embeddings.word_embeddings.weight.data
        self.remap = np.zeros(len(self.whole), np.int64)
        self.remap[self.used] = np.arange(len(self.used))
        rows = self.whole[torch.from_numpy(self.used)].clone()
        self.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False)
        self.restored = False

    def restore(self) -> None:
        """Write the trained rows into the whole table and put it back. A second call does nothing."""
        if self.restored:
            return
        self.restored = True
        current = self.embeddings.word_embeddings.weight
        self.whole[torch.from_numpy(self.used)] = current.data.cpu()
        self.embeddings.word_embeddings = nn.Embedding.from_pretrained(
            self.whole.to(current.device), freeze=not current.requires_grad
        )


def used_ids(*tables: np.ndarray) -> np.ndarray:
    """The distinct token ids in some flat id arrays, sorted."""
    return np.unique(np.concatenate([np.unique(table) for table in tables]))
