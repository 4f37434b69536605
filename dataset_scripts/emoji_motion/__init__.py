"""A probe of motion: clips that differ in the order of their frames alone, with captions in nine languages."""
