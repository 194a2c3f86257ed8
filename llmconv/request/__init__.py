"""Options, the request that they make, and the layout of the output directory."""
