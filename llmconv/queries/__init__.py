"""Answers that build nothing. They only read."""
