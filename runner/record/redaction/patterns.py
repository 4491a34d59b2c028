"""The redaction rules in order of precedence: a whole before its parts.

Each pattern takes linear time: repeats are bounded, possessive, or over characters that the rest cannot match. Most
text needs no rule, so each has a hint that is much faster to search than the pattern itself.
"""

import re

from runner.record.redaction import host_forms, host_places, identities, secret_formats, secret_places
from runner.record.redaction.rule import Group, Rule

# A key whose value is private although the value has no recognisable form.
SPEAKING_NAME = re.compile(
    rf"{secret_places.SECRET_KEY.pattern}|{host_places.HOST_KEY.pattern}"
    rf"|\A(?:{'|'.join(identities.NAMES_OF_USERS)}|user|user_?name|logname|owner)\Z"
)

RULES: tuple[Rule | Group, ...] = (
    *secret_places.KEY_RULES,
    *secret_places.PLACE_RULES,
    *secret_formats.FORMAT_RULES,
    *secret_places.CREDENTIALS_RULES,
    *identities.CLOUD_RULES,
    *identities.HARDWARE_RULES,
    *identities.ADDRESS_RULES,
    host_forms.IP_HOST,
    identities.MAIL,
    identities.IPV4,
    *host_forms.FORM_RULES,
    *host_places.PLACE_RULES,
    *identities.USER_RULES,
)
