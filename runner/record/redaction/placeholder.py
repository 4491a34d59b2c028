"""What stands for redacted text. Apart from the rules, which are slow to import and not needed to recognise it."""

import re

PLACEHOLDER = re.compile(
    r"\[(?:ip|mac|guid|uuid|serial|host|user|token|credentials|private-key|redacted"
    r"|environment of \d+ variables removed)\]"
)
