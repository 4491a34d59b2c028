"""Parts that several refusal messages share."""

AGAIN = "run the entry again"
CLOCK = "check the node's clock and run again"


def shown(value: object) -> str:
    """A value of a record for a message: short, without line ends and escape codes."""
    text = ascii(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


_LONGEST = 60
