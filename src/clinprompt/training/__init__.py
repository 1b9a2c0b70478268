"""Batching, task sampling, the training loop, distillation, checkpoints."""
