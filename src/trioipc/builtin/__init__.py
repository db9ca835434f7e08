"""What the built-in workers can do: plain functions on buffers and paths.

They run in worker processes and on threads; called directly, they simply run.
"""
