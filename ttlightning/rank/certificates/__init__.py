"""Making certificates of a rank."""
