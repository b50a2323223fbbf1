"""Results from tables of scores: read, checked, and converted for the report."""
