"""What runs inside a worker process. Nothing here imports Trio."""
