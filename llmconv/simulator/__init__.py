"""Run .bmodel files on the chip simulator (cmodel) that comes with the compiler."""
