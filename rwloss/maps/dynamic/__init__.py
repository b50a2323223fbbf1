"""Terms whose map depends on the prediction, one per file."""
