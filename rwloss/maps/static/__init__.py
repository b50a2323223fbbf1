"""Terms whose map follows from the labels alone, one per file."""
