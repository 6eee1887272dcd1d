"""transformers' causal models as decoding wants them: in pairs, with an attention of our own,
a LoRA adapter row by row, and steps that are recorded."""
