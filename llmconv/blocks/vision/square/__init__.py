"""Towers that take images of one square size, one a launch: SigLIP, as Janus has it."""
