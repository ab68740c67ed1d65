"""Weights as products of smaller factors, at every site that reads them."""
