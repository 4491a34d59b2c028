"""The patterns of what must not be stored, in order of precedence, each with its placeholder.

Each pattern is linear: repeats are bounded, possessive, or over characters that what follows cannot match. Most
text needs none of them, so each has a hint that is much quicker to look for than the pattern itself.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One kind of thing to take out.

    Attributes:
        hint: words in lower case of which one must occur (in any case) for the rule to apply, or a quicker pattern.
        placeholder: what stands in its place.
        head: what comes before it and stays.
        body: what is taken out; it never matches its own placeholder.
        unless: given the body and the text before the match, whether it is harmless after all.
    """

    hint: tuple[str, ...] | re.Pattern[str]
    placeholder: str
    head: str
    body: str
    unless: Callable[[str, str], bool] | None = None

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Head and body; the body is the group of that name."""
        return re.compile(f"{self.head}(?P<body>{self.body})", re.MULTILINE)

    def may_apply(self, text: str, lowered: str) -> bool:
        """Whether the rule is worth trying on this text; `lowered` is the text in lower case."""
        if isinstance(self.hint, tuple):
            return any(word in lowered for word in self.hint)
        return self.hint.search(text) is not None

    def finds(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where something is to be taken out: its start, its end, and what stands in its place."""
        for match in self.pattern.finditer(text):
            start, end = match.span("body")
            if self.unless is None or not self.unless(match["body"], text[max(0, start - 64) : start]):
                yield start, end, self.placeholder


# Networks of the house itself: these numbers are addresses whatever stands before them.
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
)
_PINNED = re.compile(r"==[ \t]*\Z|[@=]v\Z")
# Four-part versions: cuDNN 9.1.0.70, nvidia-cublas-cu12 12.8.4.1, version 1.2.3.4, libcudnn.so.9.1.0.70.
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version\W{0,3}|\.so\.|-|nvidia-[a-z0-9-]{1,40}[ \t:=]{1,40}"
    r"|(?:cuda|cudnn|cublas|cufft|curand|cusolver|cusparse|cusparselt|cufile|cupti|cutlass|nccl|nvjitlink|nvtx"
    r"|nvshmem|triton|torch)[a-z0-9_-]{0,10}[ \t:=]{0,4})\Z",
    re.IGNORECASE,
)


def _harmless_ipv4(address: str, before: str) -> bool:
    if _PINNED.search(before):
        return True
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        return True  # a part above 255 or with a leading zero: a version, a date
    # Loopback, any, masks and multicast say nothing about this host.
    if parsed.is_loopback or parsed.is_multicast or address.startswith(("0.", "255.")):
        return True
    return not any(parsed in network for network in _PRIVATE) and bool(_VERSION_BEFORE.search(before))


def _harmless_ipv6(address: str, _before: str) -> bool:
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_unspecified


_HEX = "[0-9A-Fa-f]"
_ALONE = r"(?<![0-9A-Za-z])"
_END = r"(?![0-9A-Za-z])"
# Between a name and its value, in a shell, YAML, JSON, or JSON inside a string.
_IS = r"\\{0,2}[\"']?[ \t]{0,40}+[:=][ \t]{0,40}+(?:\\{0,2}[\"'])?+"
_NOT_TAKEN = r"(?!(?:(?i:bearer|basic|token)[ \t]{1,4})?\[token\](?:[\\\s\"']|\Z))"
_VALUE = r"(?:(?<=\")[^\"\n]+|(?<=')[^'\n]+|[^\s\"']+)"
_NUMBER = r"(?![+-]?[\d.,]+(?:[eE][+-]?\d+)?[%,;)}\]]?(?:[\s\"']|\Z))"
_PLAIN_WORD = r"(?!(?i:true|false|none|null|yes|no|on|off)\b)"

# Words that say of the name they are in that its value is a secret; in lower case.
SPEAKING_WORDS = (
    *("secret", "password", "passwd", "passphrase", "credential", "authorization", "cookie"),
    *(f"{kind}{glue}key" for kind in ("api", "access", "private") for glue in ("_", "-", "")),
)
_SPEAKING = "|".join(SPEAKING_WORDS)
_HOST_NAMES = (
    *("HOSTNAME", "HOST", "MASTER_ADDR", "MASTER_HOST", "NODE_NAME", "NODENAME", "SLURM_SUBMIT_HOST"),
    *("BatchHost", "NodeList", "NodeName", "NodeHostName", "AllocNode:Sid"),
)
_USER_NAMES = (
    "USER",
    "LOGNAME",
    "USERNAME",
    "SUDO_USER",
    "SLURM_JOB_USER",
    "SLURM_JOB_ACCOUNT",
    "UserId",
    "GroupId",
)
# What makes a number after it an index or a measure, and what makes it a count: `gpu-util-90`, `multi-node-16`.
_INDEXES = "rank|ranks|id|ids|idx|index|mode|util|mem|memory|count|local|world|list|type|group"
_COUNTS = "multi|single|per|num|two|one|intra|inter|cross|nvidia|cuda|torch|max|min|sm"
# Ends of host names that mean nothing outside their own network.
_DOMAINS = (
    "internal",
    "localdomain",
    "local",
    "corp",
    "cluster",
    "lan",
    "intranet",
    "intra",
    "private",
    "home.arpa",
)
# A key under which a value is private although nothing in the value shows it.
SPEAKING_NAME = re.compile(rf"(?i:{_SPEAKING}|token|serial)|^(?:{'|'.join((*_HOST_NAMES, *_USER_NAMES))})$")

RULES = (
    Rule(
        ("-----begin",),
        "[private-key]",
        "",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----"
        r"(?:[\s\S]{0,8000}?-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----|[\s\\A-Za-z0-9+/=]*+)",
    ),
    # The end of a key whose beginning was dropped with the middle of an output.
    Rule(
        ("-----end",),
        "[private-key]",
        "",
        r"(?:^[A-Za-z0-9+/=]{16,80}\r?\n){0,200}+[A-Za-z0-9+/=]{0,80}+\r?\n?-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----",
    ),
    Rule(
        tuple(SPEAKING_WORDS),
        "[token]",
        rf"(?i:{_SPEAKING})\w{{0,40}}{_IS}(?:(?i:bearer|basic|token)[ \t]{{1,4}})?",
        rf"{_NOT_TAKEN}{_PLAIN_WORD}{_VALUE}",
    ),
    Rule(
        ("token",),
        "[token]",
        rf"TOKEN(?![A-Za-z])\w{{0,40}}{_IS}",
        rf"{_NOT_TAKEN}{_PLAIN_WORD}{_NUMBER}{_VALUE}",
    ),
    # In lower case the word is mostly a unit of text: only what looks like a secret is one.
    Rule(
        ("token",),
        "[token]",
        rf"[Tt]oken(?![A-Za-z])\w{{0,40}}{_IS}",
        r"(?=[\d._~+/=-]*+[A-Za-z])(?=[A-Za-z._~+/=-]*+\d)[\w.~+/=-]{8,}+",
    ),
    Rule(
        ("--",),
        "[token]",
        r"--(?:[a-z0-9]{1,20}-){0,4}(?:token|password|secret|api-key|credentials?)[ \t]{1,4}[\"']?",
        rf"{_NOT_TAKEN}{_NUMBER}(?!-)[^\s\"']+",
    ),
    Rule(
        ("bearer",),
        "[token]",
        r"(?i:bearer)[ \t]{1,4}",
        r"(?=[A-Za-z._~+/=-]{0,200}+\d)[\w.~+/=-]{12,}+",
    ),
    Rule(("eyj",), "[token]", "", r"\beyJ[\w-]{8,}+\.[\w-]{4,}+\.[\w-]*+"),
    Rule(
        ("hf_", "npm_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "dckr_pat_"),
        "[token]",
        "",
        rf"{_ALONE}(?:hf|npm|gh[pousr]|github_pat|dckr_pat)_\w{{16,}}+",
    ),
    Rule(
        ("sk-", "nvapi-", "glpat-", "pypi-", "xox"),
        "[token]",
        "",
        rf"{_ALONE}(?:(?:sk|nvapi|glpat|pypi)-[\w-]{{16,}}+|xox[a-z]-[\w-]{{10,}}+)",
    ),
    Rule(
        ("akia", "asia", "aiza"),
        "[token]",
        "",
        rf"{_ALONE}(?:(?:AKIA|ASIA)[A-Z0-9]{{16}}{_END}|AIza[\w-]{{30,}}+)",
    ),
    Rule(("://",), "[credentials]@", "://", r"(?!\[credentials\]@)[^\s/\"'<>]{1,300}@"),
    Rule(
        re.compile(rf"-{_HEX}{{4}}-{_HEX}{{4}}-"),
        "[uuid]",
        "",
        rf"{_ALONE}(?:MIG-)?(?:GPU-)?{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}{_END}",
    ),
    Rule(("gpu-", "mig-"), "[uuid]", "", rf"{_ALONE}(?:GPU|MIG)-{_HEX}{{8}}[0-9A-Fa-f-]{{0,28}}{_END}"),
    Rule(
        ("serial", "s/n"),
        "[serial]",
        rf"(?:(?i:serial)(?i:[ _]?number)?|{_ALONE}S/N){_IS}",
        rf"(?=[A-Za-z-]{{0,40}}+\d)[A-Za-z0-9-]{{6,40}}{_END}",
    ),
    Rule(
        re.compile(rf"[:-]{_HEX}{{2}}[:-]{_HEX}{{2}}[:-]{_HEX}{{2}}[:-]{_HEX}{{2}}(?!{_HEX})"),
        "[mac]",
        "",
        rf"{_ALONE}(?<![:])(?:{_HEX}{{2}}[:-]){{5,31}}{_HEX}{{2}}(?![:-]?[0-9A-Za-z])",
    ),
    # Sixteen digits that begin with four zeros are an address in memory; NCCL's commId names no adapter.
    Rule(
        re.compile(rf"0x{_HEX}{{16}}"),
        "[guid]",
        "",
        rf"{_ALONE}(?<!commId )(?<!commHash )0x(?!0000){_HEX}{{16}}{_END}",
    ),
    Rule(
        re.compile(rf":{_HEX}{{4}}:{_HEX}{{4}}:{_HEX}{{4}}(?!:)"),
        "[guid]",
        "",
        rf"(?<![0-9A-Za-z:])(?:{_HEX}{{4}}:){{3}}{_HEX}{{4}}(?![:0-9A-Za-z])",
    ),
    Rule(
        re.compile(rf":{_HEX}{{0,4}}:{_HEX}{{0,4}}:|::"),
        "[ip]",
        "",
        rf"(?<![0-9A-Za-z:])(?:(?:{_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}"
        rf"|(?:[Ff][Ee][89ABab]{_HEX}|[Ff][CDFcdf]{_HEX}{{2}}|[23]{_HEX}{{3}})(?::{_HEX}{{0,4}}){{2,7}})"
        r"(?:%\w{1,15})?(?![0-9A-Za-z:])",
        _harmless_ipv6,
    ),
    Rule(("ip-",), "[host]", "", rf"{_ALONE}ip-\d{{1,3}}(?:-\d{{1,3}}){{3}}(?:\.[\w-]{{1,63}}){{0,8}}{_END}"),
    Rule(
        ("@",),
        "[user]@[host]",
        "",
        r"(?<![\w.+-])[A-Za-z_][\w.+-]{1,63}@(?:[A-Za-z][\w-]++(?:\.[\w-]++)*+|\d{1,3}(?:\.\d{1,3}){3})",
    ),
    Rule(
        re.compile(r"\.\d{1,3}\.\d{1,3}\.\d"),
        "[ip]",
        "",
        r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![0-9]|\.[0-9])",
        _harmless_ipv4,
    ),
    Rule(
        tuple(f".{domain}" for domain in _DOMAINS),
        "[host]",
        "",
        rf"(?<![\w.-])(?!threading\.)(?:[A-Za-z0-9_][\w-]{{0,62}}+\.){{1,8}}(?:{'|'.join(map(re.escape, _DOMAINS))})"
        r"(?![\w(-]|\.\w)",
    ),
    # Every line of NCCL's log begins with the host.
    Rule(
        ("] nccl ",),
        "[host]",
        "",
        r"(?<![\w.\]-])[\w.-]{1,80}+(?=:\d{1,9}:\d{1,9} \[\d{1,3}\] NCCL )",
    ),
    Rule(
        tuple(f"{name.lower()}=" for name in (*_HOST_NAMES, "NODELIST", "NODENAME")),
        "[host]",
        rf"(?<![A-Za-z0-9_])(?:SLURM\w{{0,20}}NODE(?:LIST|NAME)|{'|'.join(_HOST_NAMES)})=[\"']?",
        r"(?!localhost|127\.|\[host\]|\[ip\]|\(null\))[^\s\"']+",
    ),
    # The summary that torchrun prints of a failure.
    Rule(
        re.compile(r"host {1,20}: "),
        "[host]",
        r"^(?:\[\w{1,20}\]:)?[ \t]{0,16}host {1,20}: ",
        r"(?!\[|localhost)\S{1,200}",
    ),
    # Names that clusters give their machines, standing alone. An index (`gpu0`, `node 3`, `node-rank-0`) is none, a
    # count (`single-gpu-1`) is none, nor is the alias that this project gives a node.
    Rule(
        re.compile(r"(?i:dgx|hgx|node|compute|login|host|rack|nid|gpu|[bh]\d00)[a-z0-9-]{0,20}\d"),
        "[host]",
        r"(?<![\w.\[-])",
        rf"(?!node-[0-9a-f]{{6}}(?![\w-]))(?!(?i:\w{{1,12}}-(?:{_INDEXES})|(?:{_COUNTS}))-)"
        r"(?:(?i:dgx|hgx)-?\d{1,5}|(?i:node|compute|login|host|nid)-?\d{2,6}|(?i:gpu)-?0\d{1,4}"
        r"|(?i:gpu|compute|rack|node)-[a-z]{1,12}\d{0,4}-\d{1,5}"
        r"|(?i:[a-z]{1,12}\d{0,4}-)(?i:node|gpu|dgx|hgx|compute|[bh]\d00)-?\d{1,5}"
        r"|(?i:rack)\d{1,4}-(?i:[a-z]{1,8}\d{1,4}))"
        r"(?:\.[A-Za-z][\w-]{0,62}){0,6}(?![\w-]|\.\w)",
    ),
    # `uname -a`.
    Rule(
        ("linux ",),
        "[host]",
        r"(?<![A-Za-z])Linux ",
        r"(?!version\b)[A-Za-z][\w.-]{0,80}+(?= \d{1,2}\.\d{1,3}[.-])",
    ),
    Rule(
        tuple(f"{name.lower()}=" for name in _USER_NAMES),
        "[user]",
        rf"(?<![A-Za-z0-9_])(?:{'|'.join(_USER_NAMES)})=[\"']?",
        r"(?!root\b|\[user\]|\[redacted\])[^\s\"']+",
    ),
    Rule(("/home/", "/users/"), "[user]", "/(?:home|Users)/", r"[^\s/:\"'<>,;()\[\]=|&*?$\\{}`]+"),
)
