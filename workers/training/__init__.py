"""Training of model pairs: a base, and an expert fine-tuned from it on a dataset's samples."""
