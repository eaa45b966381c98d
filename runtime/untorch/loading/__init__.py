"""From a bundle to running sessions: which variant, on which device, with which remembered plan."""
