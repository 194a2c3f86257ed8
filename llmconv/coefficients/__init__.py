"""The compiler's layout of weights, in NumPy."""
