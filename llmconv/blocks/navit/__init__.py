"""A tower for images that are cut into slices, each a strip of patches in reading order: MiniCPM-V 4.6's."""
