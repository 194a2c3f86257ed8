"""The sample nets' fixtures."""

from sample_nets import compiled  # noqa: F401
