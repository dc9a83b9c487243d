"""Material: tables of texts in, memory-mapped records with row numbers out."""
