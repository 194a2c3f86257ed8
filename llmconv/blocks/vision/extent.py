"""How much a tower takes that looks at images of any shape, up to a number of pixels."""

from __future__ import annotations


class Extent:
    """For specs with these fields. patch: side in pixels; merge: a token is merge x merge patches; pixels: width and
    height of the largest image, which count by their product alone."""

    patch: int
    merge: int
    pixels: tuple[int, int]

    @property
    def unit(self) -> int:
        """Side of one token in pixels. Both sides of an image are multiples of it."""
        return self.patch * self.merge

    @property
    def patches(self) -> int:
        """Most patches that the net takes."""
        return self.pixels[0] * self.pixels[1] // self.patch**2

    @property
    def tokens(self) -> int:
        """Most tokens that the net gives."""
        return self.patches // self.merge**2
