"""The tower that takes images of any shape, whose learned positions are stretched over each: SigLIP 2 NaFlex."""
