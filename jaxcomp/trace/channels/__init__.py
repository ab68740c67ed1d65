"""Which channels of a function's parameters must be cut together, and the function without them."""
