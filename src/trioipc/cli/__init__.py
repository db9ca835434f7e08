"""The command line; the way in is ``trioipc.__main__``."""
