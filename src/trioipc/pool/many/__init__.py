"""More than one answer: map and stream."""
