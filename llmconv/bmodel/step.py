"""How much of a .bmodel is moved at a time (llmconv.bmodel.move). Apart from it, because estimates ask too."""

LARGEST = 64 << 20  # bytes that are moved at a time, and are on the disk twice meanwhile
SMALLEST = 4 << 20
PARTS = 32  # of a smaller result


def step(size: int) -> int:
    """Bytes of a result of `size` bytes that are moved at a time."""
    return min(LARGEST, max(SMALLEST, size // PARTS // SMALLEST * SMALLEST))
