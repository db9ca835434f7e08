"""A worker of one's own: a module of operations."""

from trioipc import operation


@operation(idempotent=True)  # it may run twice, so it is tried again if its worker crashes
def greet(payload: dict[str, str]) -> str:
    """Answer a message."""
    return f"Hello, {payload['name']}!"
