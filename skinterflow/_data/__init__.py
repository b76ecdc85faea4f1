"""What happens to the rows of the user: columns, scalings, batches, weights."""
