"""Answers that build nothing: they read what is there."""
