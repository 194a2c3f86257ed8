"""What is asked for, and where it goes."""
