"""Which nets there are, and how each is made. Pure."""
