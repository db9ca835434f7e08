import os

os._exit(12)
