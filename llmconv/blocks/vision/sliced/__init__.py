"""The towers that take an image slice by slice, and make as many tokens of each: those of MiniCPM-V, a SigLIP
transformer with NaViT's positions (Dehghani et al. 2023) and a perceiver resampler (Yao et al. 2024, MiniCPM-V)."""
