"""One net to its program and coefficients."""
