"""Results that others made: read from tables, checked, and turned into what a report shows."""
