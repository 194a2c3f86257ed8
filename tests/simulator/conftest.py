"""The sample nets' fixtures, which the tests of bmodel have."""

from sample_nets import compiled  # noqa: F401
