"""What happens in a fit."""
