"""What is written to disk: components, models, checkpoints."""
