"""Towers that take square images, or square tiles of them, one a launch: SigLIP as Janus has it, InternViT."""
