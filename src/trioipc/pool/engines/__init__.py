"""What executes: worker processes and threads, behind the seam of `trioipc.pool._endpoint`."""
