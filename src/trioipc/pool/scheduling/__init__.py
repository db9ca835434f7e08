"""Which worker runs which request next. Pure: it answers, and never acts."""
