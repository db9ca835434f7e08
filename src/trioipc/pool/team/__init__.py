"""The workers of a pool: how many, who is ready, who is well, who leaves."""
