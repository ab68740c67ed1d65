"""Low rank: weights as products of smaller ones."""
