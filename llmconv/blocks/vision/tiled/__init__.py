"""The tower that takes all tiles of an image in one launch, for layers that look across: Llama 3.2 Vision."""
