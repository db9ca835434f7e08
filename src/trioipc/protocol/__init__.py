"""Who says what to whom: messages, frames, life cycles. No I/O and no clock."""
