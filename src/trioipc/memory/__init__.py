"""What several processes see at once: segments, cells, the board of requests, shared state."""
