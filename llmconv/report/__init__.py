"""report.html: what was built from what, how long it took, how large, how fast and how right it is. One page that needs nothing else."""
