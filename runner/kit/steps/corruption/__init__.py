"""Wrong results without an error: flipped bits, what finds them, and what looks like them and is healthy."""
