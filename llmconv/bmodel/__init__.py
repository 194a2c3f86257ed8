"""The .bmodel file: read it, write it, combine several into one."""
