"""Fitting: parameters, held-out rows, training, distillation and limits."""
