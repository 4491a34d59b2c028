"""Secrets that are recognised by their place: after a name, an option or a header, or in a key block."""

import functools
import re

from runner.record.redaction.rule import ALONE, END, IS, NEXT, QUOTE, Rule, each_alone, grouped

_NOT_TAKEN = r"(?!(?:(?i:bearer|basic|token)[ \t]{1,4})?\[token\](?:[\\\s\"']|\Z))"
_VALUE = r"(?:(?<=\")[^\"\n]+|(?<=')[^'\n]+|[^\s\"']+)"
_NUMBER = r"(?![+-]?[\d.,]+(?:[eE][+-]?\d+)?[%,;)}\]]?(?:[\s\"']|\Z))"
_PLAIN_WORD = r"(?!\[?(?i:true|false|none|null|yes|no|on|off)\b|\[\]|not set\b)"
# At least 16 characters, with a letter and a digit among the first: neither a word nor a number.
_RANDOM = r"(?=[\d+/=_.-]{0,24}[A-Za-z])(?=[A-Za-z+/=_.-]{0,24}\d)[\w+/=.~-]{16,}+"
# Between a program and one of its options, on one line and within one command.
_OPTIONS = r"[^\n|;&]{0,200}?[ \t]"

# Lower-case words in a name that mark its value as a secret.
SPEAKING_WORDS = "|".join(
    (
        "secret|password|passwd|passphrase|credential|authorization|cookie",
        *(
            f"{kind}{glue}key"
            for kind in ("api", "app", "access", "account", "private", "encryption", "signing")
            for glue in ("_", "-", "")
        ),
        "sharedaccesskey|client-key-data|client-certificate-data|certificate-authority-data",
    )
)

_key = functools.partial(Rule, "[private-key]")
_token = functools.partial(Rule, "[token]")

PLACE_RULES = (
    *each_alone(
        _key(
            "-----begin",
            r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[\s\S]{0,8000}?-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|[\s\\A-Za-z0-9+/=]*+)",
        ),
        # The end of a key whose beginning was in the dropped middle of an output.
        _key(
            "-----end",
            r"(?>(?:^[A-Za-z0-9+/=]{4,80}\r?\n){0,200})[A-Za-z0-9+/=]{0,80}+\r?\n?"
            r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
        ),
        # The middle of a key whose both ends are missing.
        _key(
            " bytes dropped]",
            r"\[\d{1,20} bytes dropped\]\n"
            r"([A-Za-z0-9+/=]{0,80}\r?\n(?>(?:[A-Za-z0-9+/=]{60,80}\r?(?:\n|\Z)){1,200})[A-Za-z0-9+/=]{0,80})",
        ),
        # PuTTY.
        _key(
            "private-lines:",
            r"Private-Lines: \d{1,4}\r?\n"
            r"((?>(?:^[A-Za-z0-9+/=]{1,80}\r?\n?){1,400})(?:Private-MAC: [0-9a-f]{1,80})?)",
        ),
    ),
    grouped(
        # A header with several values: all of them, up to the end of the line or the closing quote.
        _token(
            "cookie",
            rf"(?i:cookie)2?{QUOTE}[ \t]{{0,4}}:[ \t]{{0,4}}{QUOTE}((?!\[token\])[\w.-]{{1,80}}=[^\n\"'\\]*+)",
        ),
        # The parameters of a signed URL.
        _token(
            "x-amz-|x-goog-|x-oss-|x-cos-|x-tos-|sig=|signature=|keyid=|accessid=",
            r"(?:(?i:x-(?:amz|goog|oss|cos|tos)-(?:signature|security-token|credential|access-key))"
            rf"{IS}|(?<![\w-])(?:sig|(?i:AWSAccessKeyId|OSSAccessKeyId|GoogleAccessId))=)"
            r"((?!\[token\])[^\s&\"'<>\\;,]{8,}+)",
        ),
        _token("signature=", rf"{ALONE}[Ss]ignature=((?=[A-Za-z%+/_~=-]{{0,40}}\d)[\w%+/~=-]{{24,}}+)"),
        _token(
            SPEAKING_WORDS,
            rf"(?i:{SPEAKING_WORDS})\w{{0,40}}{IS}(?>(?:\[\\{{0,2}}[\"'])?)(?:(?i:bearer|basic|token)[ \t]{{1,4}})?"
            rf"({_NOT_TAKEN}{_PLAIN_WORD}{_VALUE})",
        ),
        # A container variable, as written by Kubernetes and Compose.
        _token(
            "value",
            rf"\b[Nn]ame{IS}\w{{0,40}}(?:(?i:{SPEAKING_WORDS})|TOKEN)\w{{0,40}}"
            rf"\\{{0,2}}[\"']?,?\s{{0,40}}\\{{0,2}}[\"']?[Vv]alue{IS}({_NOT_TAKEN}{_PLAIN_WORD}{_NUMBER}{_VALUE})",
        ),
        _token("token", rf"TOKEN(?![A-Za-z])\w{{0,40}}{IS}({_NOT_TAKEN}{_PLAIN_WORD}{_NUMBER}{_VALUE})"),
        # The prompt of `aws configure`.
        _token("access key [", r"(?i:secret access key) \[[\w*]{0,40}\]:[ \t]{1,4}((?!\[token\])\S+)"),
        # In lower case, "token" is mostly a unit of text: only a random-looking value is a secret.
        _token(
            "token",
            rf"[Tt]oken(?![A-Za-z])\w{{0,40}}{IS}"
            r"((?=[\d._~+/=%-]*+[A-Za-z])(?=[A-Za-z._~+/=%-]*+\d)[\w.~+/=%-]{8,}+)",
        ),
        # Variable names whose suffix tells the kind of the value.
        _token(
            "_pwd|_pass",
            rf"(?:(?<=[A-Za-z0-9])_PWD{IS}|{ALONE}(?:\w{{0,30}}_)?"
            rf"(?:DB|USER|ADMIN|ROOT|PG|REDIS|SMTP|MAIL|FTP|LDAP|IPMI|BMC|REGISTRY|PROXY|SSH)_?PASS{IS})"
            rf"((?![/.~$]){_NOT_TAKEN}{_PLAIN_WORD}{_VALUE})",
        ),
        _token(
            "_key|_pat|_sas|_auth|_jwt|_creds",
            rf"(?<=[A-Z0-9])_(?:KEY|PAT|SAS|AUTH|JWT|CREDS){IS}({_RANDOM})",
        ),
        _token(";pwd=|; pwd=", r";[ \t]?(?i:pwd)=((?!\[token\]|/)[^\s\"';]+)"),
        # `"auth":` in Docker settings and `_auth=` in npm settings.
        _token(
            "auth",
            rf"(?:(?<=[\"'])auth\\{{0,2}}[\"']|^auth(?==\")|(?<![A-Za-z0-9])_auth){IS}"
            r"((?=[a-z0-9+/]{0,40}[A-Z])(?=[A-Z0-9+/]{0,40}[a-z])[A-Za-z0-9+/_-]{8,}+={0,2})",
        ),
        _token(
            "--",
            rf"--(?:[a-z0-9]{{1,20}}-){{0,4}}(?:token|password|secret|api-key|credentials?){NEXT}"
            rf"({_NOT_TAKEN}{_NUMBER}(?!-)[^\s\"'\\]+)",
        ),
        # The meaning of one-letter options depends on the program.
        _token(
            "login|sshpass",
            rf"\b(?:login|sshpass)\b{_OPTIONS}-p[ \t=]{{0,4}}{QUOTE}((?!-|\[token\]|\d{{1,5}}(?:\s|\Z))[^\s\"'\\]+)",
        ),
        _token(
            "mysql|mariadb",
            rf"\b(?:mysql|mariadb)[a-z-]{{0,12}}\b{_OPTIONS}{QUOTE}-p{QUOTE}"
            r"((?!\[token\])[^\s\"'\\;|&)-][^\s\"'\\]*)",
        ),
        _token(
            "redis-cli|ipmitool|ldap",
            rf"\b(?:redis-cli\b{_OPTIONS}-a|ipmitool\b{_OPTIONS}-P|ldap[a-z]{{2,10}}\b{_OPTIONS}-w)[ \t]{{1,4}}{QUOTE}"
            r"((?!-|\[token\])[^\s\"'\\]+)",
        ),
        Rule(
            "[credentials]",
            "curl|wget",
            rf"\b(?:curl|wget)\b{_OPTIONS}{QUOTE}(?:-u|--user|--proxy-user|-U)(?:{NEXT})?"
            r"([^\s\"':\\\[-][^\s\"':\\]{0,80}:[^\s\"'\\]+)",
        ),
        _token(
            "wandb login|wandb.login(",
            rf"wandb(?: login{_OPTIONS}|\.login\([^\n)]{{0,80}}?){QUOTE}([0-9a-f]{{40}}{END})",
        ),
        # `.netrc`, on one line or on several.
        _token(
            "password",
            r"\b(?:machine\s{1,20}\S{1,200}|default)\s{1,20}login\s{1,20}\S{1,200}\s{1,20}"
            r"(?:account\s{1,20}\S{1,200}\s{1,20})?password\s{1,20}((?!\[token\])[^\s\"']+)",
        ),
        _token("bearer", r"(?i:bearer)[ \t]{1,4}((?=[A-Za-z._~+/=-]{0,200}+\d)[\w.~+/=-]{12,}+)"),
    ),
)
CREDENTIALS_RULES = each_alone(Rule("[credentials]@", "://", r"://((?!\[credentials\]@)[^\s/\"'<>]{1,300}@)"))

# A key whose value is a secret although the value has no recognisable form.
SECRET_KEY = re.compile(
    rf"(?i:{SPEAKING_WORDS}|token|serial)|\Aauth\Z|_auth\Z|_(?:PWD|PASS|KEY|PAT|SAS|AUTH|JWT|CREDS)\Z"
)
