"""The user's rows: columns, scalings, batches, groups and weights."""
