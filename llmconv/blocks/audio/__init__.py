"""Towers that hear: encoders of log-mel spectrograms in the line of Whisper (Radford et al. 2022)."""
