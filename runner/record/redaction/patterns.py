"""The redaction rules in order of precedence: a whole before its parts.

Each pattern takes linear time: repeats are bounded, possessive, or over characters that the rest cannot match. Most
text needs no rule, so each has a hint that is much faster to search than the pattern itself.
"""

import re

from runner.record.redaction import environment_dumps, hosts, identities, secret_formats, secret_places
from runner.record.redaction.rule import Group

# A key whose value is private although the value has no recognisable form.
SPEAKING_NAME = re.compile(
    "|".join(key.pattern for key in (secret_places.SECRET_KEY, hosts.HOST_KEY, identities.USER_KEY))
)

RULES: tuple[Group, ...] = (
    (("environ({",), (environment_dumps.printed_environments,)),
    (("=",), (environment_dumps.listed_environments,)),
    *secret_places.PLACE_RULES,
    *secret_formats.FORMAT_RULES,
    *secret_places.CREDENTIALS_RULES,
    *identities.CLOUD_RULES,
    *identities.HARDWARE_RULES,
    *identities.IPV6_RULES,
    *hosts.IP_HOST_RULES,
    *identities.MAIL_AND_IPV4_RULES,
    *hosts.FORM_RULES,
    *hosts.PLACE_RULES,
    *identities.USER_RULES,
)
