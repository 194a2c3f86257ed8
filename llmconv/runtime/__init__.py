"""What runs a .bmodel, on the simulator or on a device, as the public demo programs do."""
