"""Redaction rules for host names of any form that are recognised by their place: a message, an option, a field."""

import re

from runner.record.redaction.host_forms import NAMES_OF_HOSTS
from runner.record.redaction.public_names import names_no_host
from runner.record.redaction.rule import IS, NEXT, QUOTE, Group, Rule, assigned

_SPOKEN_WORDS = (
    *(("host", "name"), ("node", "name"), ("node", "list"), ("host", "list"), ("node", "addr"), ("fqdn",)),
    *(("master", "addr"), ("master", "host"), ("head", "node"), ("node", "ip"), ("node", "ip", "address")),
    *(("submit", "host"), ("exec", "host"), ("server", "host"), ("remote", "host"), ("client", "host")),
    *(
        ("batch", "host"),
        ("alloc", "node"),
        ("slurmctld", "host"),
        ("rdzv", "endpoint"),
        ("manager", "address"),
    ),
)
# Written out for each case: a pattern that begins with literal words is searched much faster.
_SPOKEN = "|".join(
    sorted(
        {
            spelling
            for words in _SPOKEN_WORDS
            for glue in ("", "_")
            for spelling in (
                glue.join(words),
                glue.join(words).upper(),
                glue.join(word.capitalize() for word in words),
                glue.join((words[0], *(word.capitalize() for word in words[1:]))),
                glue.join(words).capitalize(),
            )
        },
        key=lambda spelling: (-len(spelling), spelling),
    )
)
_SPOKEN_HINTS = tuple(glue.join(words) for words in _SPOKEN_WORDS for glue in ("", "_"))
# A key whose value is a host name.
HOST_KEY = re.compile(rf"(?:{_SPOKEN})\Z|\A(?:{'|'.join(NAMES_OF_HOSTS)}|(?i:host))\Z")

_HOST = r"[A-Za-z0-9][\w-]{0,62}+(?>(?:\.[A-Za-z0-9_][\w-]{0,62}+){0,8})"
# Slurm's `node[01-08]`, and lists with ports.
_ITEM = rf"{_HOST}(?:\[[\d,-]{{1,200}}\][\w.-]{{0,40}}+)?"
_HOSTS = rf"(?>(?:{_ITEM}(?::\d{{1,5}})?,(?=[A-Za-z0-9]))*){_ITEM}"
_LETTERED = rf"(?=[A-Za-z]){_HOSTS}"
_IS_EQUAL, _IS_COLON = assigned("="), assigned(":")
_NO_CODE = r"(?![\w(\[{.])"
# Names before a dot in code, and string prefixes.
_OBJECTS = frozenset(
    re.findall(
        r"\w+",
        "self cls node host addr args arguments opts options os socket spec config cfg ctx obj env task info request "
        "response sys platform getattr record machine origin str f rf fr b",
    )
)
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_SERVED = re.compile(
    r"(?i:\b(?:https?|wss?|tcp[46]?|udp|grpcs?|rediss?|ray|etcd|zmq|sftp|ftps?|ssh|nfs|ldaps?|mysql|postgres(?:ql)?"
    r"|mongodb(?:\+srv)?|amqps?|kafka|nats|mqtt|otlp))://(?:\[credentials\]@)?\Z"
)


def _names_no_field(found: str, before: str) -> bool:
    return "_" in found or found.partition(".")[0] in _OBJECTS or names_no_host(found, before)


def _names_no_server(found: str, before: str) -> bool:
    return _SERVED.search(before) is None or names_no_host(found, before)


# (search hint, a phrase that ends where the name begins)
_PHRASES = (
    ("connect to host ", r"connect to host "),
    ("resolve host", r"esolve host(?:name)?:? "),
    ("failed to connect to ", r"ailed to connect to "),
    ("connection ", r"Connection (?:closed|reset|refused|timed out) by (?:remote host )?"),
    ("added '", r"Permanently added '(?:\[)?"),
    ("of host '", r"authenticity of host '"),
    ("ping ", r"PING (?=[^\s(]{1,200} \()"),
    ("resolving ", r"Resolving (?=[^\s(]{1,200}(?: \(|\.\.\.))"),
    ("lookup ", r"lookup (?=[^\s:]{1,200}+(?: on [\d\[]|: (?:no such|server|i/o|[Tt]emporary)))"),
    ("failure on ", r"failure on "),
    (" not respond", r"odes? (?=\S{1,200} not respond)"),
    # ssh, curl, ping, mounts, systemd and certificates.
    ("uthenticat", r"Authenticating to (?=\S{1,200}:\d)|Authenticated to (?=\S{1,200} \()"),
    ("' is known", r"Host '(?=[^'\n]{1,200}' is known)"),
    ("target host name", r"target host name '"),
    ("last login", r"Last login: [^\n]{1,60} from "),
    ("bytes from ", r"bytes from (?=\S{1,200} \([^)\n]{1,60}\): icmp)"),
    ("onnection to host ", r"onnection to host "),
    (" type ", r"^(?=[^\s:]{1,200}:/\S{0,300} on /\S{0,300} type (?:nfs|ceph|lustre))"),
    ("hostname ", r"(?:Hostname set|Set hostname) to <"),
    ("hostname()", r"gethostname\(\)[^\w\n]{1,8}"),
    ("cn", r"(?:\bCN=|, CN = )(?=[\w-]{1,63}\.\w)"),
    ("sysname:", r"\bSysName:[ \t]{1,20}"),
    # Slurm, torchrun, nccl-tests, Open MPI, UCX, Kubernetes.
    ("node", r"Requested nodes? (?=\S{1,200} not available)|Nodes (?=\S{1,200} are (?:still )?not ready)"),
    ("error: node ", r"error: Node (?=\S{1,200} has )"),
    ("the node '", r"[Tt]he node '(?=[^'\n]{1,200}_\d{1,9}_\d{1,6}')"),
    ("failure ", r"^(?: \.\. )?(?=[\w.-]{1,200}(?: pid \d{1,9})?: Test (?:NCCL |CUDA |MPI )?failure )"),
    (" pid ", r"\bPid {1,8}\d{1,9} on {1,10}(?=\S{1,200} {1,4}device)"),
    ("[", r"^\[(?=[\w.-]{1,200}:\d{1,9}(?:\] (?:\*\*\*|\[ ?\d{1,3}\]|MCW|Signal)|:\d{1,9}:\d{1,9}\]))"),
    ("[", r"^\[\d{9,12}\.\d{1,9}\] \[(?=[\w.-]{1,200}:\d)"),
    ("assigned ", r"Successfully assigned \S{1,300} to "),
    (
        "node",
        r"^[ \t]{0,8}Node:[ \t]{1,20}(?=[^\s/]{1,200}(?:/|[ \t]*$))|\bnode/(?=\S{1,200} (?:un)?cordoned)",
    ),
    (
        "host: ",
        r"(?:Local|local|Remote|remote|Peer|peer|Target|target|Source|source|System|system) [Hh]ost:[ \t]{1,20}",
    ),
)
_CONNECTED = r"\b[Cc]onnect(?:ed|ing|ion)? (?:to|from) "
_TOLD = r"(?=:\d|\.?[ \t]*(?:[\r\n\"'\\]|\Z)|[ \t]\(|[ \t]port\b|[ \t]\[|[ \t](?:closed|refused|reset|timed)|['\"])"

_PLACES = (
    # Slurm.
    Rule(
        ("srun: error: ", "salloc: ", "slurmd-", "slurmstepd-"),
        "[host]",
        r"srun: error: (?=[^\s:]{1,200}+: tasks? \d)|salloc: Nodes? (?=\S{1,200}+ (?:is|are) ready)"
        r"|slurm(?:step)?d-(?=[^\s:]{1,200}+: )",
        _HOSTS,
        names_no_host,
    ),
    Rule((" on ",), "[host]", r"\b(?:STEP|JOB|StepId|JobId)[ =]\S{1,40} ON ", _HOSTS, names_no_host),
    Rule((" on ",), "[host]", r" ON ", rf"{_HOSTS}(?= (?:CANCELLED|FAILED|DUE TO)\b)", names_no_host),
    Rule(
        ("on node ", "on host "),
        "[host]",
        r"\bon node |\bon host (?=[A-Za-z-]{1,40}\d)",
        _LETTERED,
        names_no_host,
    ),
    # Options of launchers, and remote shells.
    Rule(
        (
            "--rdzv",
            "--master",
            "--host",
            "--node",
            "--dist-init-addr",
            "--head",
            "--address",
            "--server",
            "--exclude",
        ),
        "[host]",
        r"--(?:rdzv[_-]endpoint|master[_-]addr(?:ess)?|host(?:s|name|list)?|node(?:list|name)?"
        rf"|node-ip-address|dist-init-addr|head(?:-node|-addr)?|address|server|exclude){NEXT}",
        _HOSTS,
        names_no_host,
    ),
    Rule(
        ("mpirun", "mpiexec", "pdsh", "clush", "srun", "ipmitool"),
        "[host]",
        rf"\b(?:mpirun|mpiexec|pdsh|clush|srun|prun|ipmitool)\b[^\n|;&]{{0,200}}?[ \t](?:-H|-w)[ \t=]{{1,4}}{QUOTE}",
        _LETTERED,
        names_no_host,
    ),
    Rule(
        ("ssh ",),
        "[host]",
        r"(?<![\w./-])ssh (?:-[46AaCfGgKkMNnqsTtVvXxYy]{1,8} |-[a-zA-Z] ?[^\s-]\S{0,200} ){0,10}",
        _LETTERED,
        names_no_host,
    ),
    Rule(
        ("scp ", "rsync "),
        "[host]",
        r"\b(?:scp|rsync) [^\n|;&]{0,200}?(?<=[ \t])",
        rf"{_LETTERED}(?=:[/~.\w])",
        names_no_host,
    ),
    # Messages about connections.
    *(Rule((hint,), "[host]", phrase, _LETTERED, names_no_host) for hint, phrase in _PHRASES),
    Rule(("connect",), "[host]", _CONNECTED, rf"{_LETTERED}{_TOLD}", names_no_host),
    Rule(
        ("connect", "socket", "c10d", "store", "listen"),
        "[host]",
        r"\b(?:[Cc]onnect\w{0,5}|socket|c10d|\w{0,20}Store|listen\w{0,4})\b[^\n(]{0,200}?\([\"']?",
        rf"{_LETTERED}(?=[\"']?, \d{{4,5}}\))",
        names_no_host,
    ),
    # `[name]:29500` of c10d's sockets.
    Rule(
        ("]:",),
        "[host]",
        r"(?<=\w )",
        rf"\[(?!(?:ip|host|user|uuid|token|redacted)\]|(?:rank|default|trainer)\d)(?=[A-Za-z]){_HOST}\](?=:\d{{4,5}}(?!\d))",
        names_no_host,
    ),
    # Service URLs: with a port, or with a name without a dot, so not a public web page.
    Rule(
        ("://",),
        "[host]",
        r"://(?:\[credentials\]@)?",
        rf"(?:{_HOST}(?=:\d)|[A-Za-z0-9][\w-]{{0,62}}+(?![\w.:@-]))",
        _names_no_server,
    ),
    # Named fields, in any notation. Code after them is not a name: an attribute, a call, an index, `a_variable`.
    Rule(
        _SPOKEN_HINTS,
        "[host]",
        rf"(?:{_SPOKEN}){_IS_EQUAL}",
        rf"{_LETTERED}{_NO_CODE}",
        _names_no_field,
    ),
    # After a colon a sentence may follow.
    Rule(
        _SPOKEN_HINTS,
        "[host]",
        rf"(?:{_SPOKEN}){_IS_COLON}",
        rf"{_LETTERED}(?=:\d|\.?[ \t]*(?:[\r\n\"'\\,;)}}]|\Z))",
        _names_no_field,
    ),
    # Shorter words, only as a field of a header, of JSON, of a Python repr, or of `scontrol`.
    Rule(
        ("host", "nodes="),
        "[host]",
        rf"(?<![A-Za-z0-9_-])(?:Host: |host[ ]?=[ ]?[\"']?|(?<=[\"'])[Hh]ost(?:\\{{0,2}}[\"']){IS})|^host(?==){IS}"
        r"|(?<![A-Za-z0-9_-])Nodes=",
        rf"{_LETTERED}{_NO_CODE}",
        _names_no_field,
    ),
    Rule(("instance=",), "[host]", rf"\binstance={QUOTE}", rf"{_LETTERED}(?=:\d)", names_no_host),
    # System logs: a date, the host, the program.
    Rule(
        ("kernel:", "]:", "systemd:", "sshd:", "slurmd:", "nvidia-"),
        "[host]",
        rf"(?:{_MONTH} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{{1,9}})?|\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,]{{0,10}}"
        r"(?:Z|[+-]\d\d:?\d\d)) ",
        rf"(?=[A-Za-z]){_HOST}"
        r"(?= (?:kernel|[\w./()@-]{1,60}+\[\d{1,9}\]|systemd|sshd|slurmd|nvidia-[a-z-]{1,30}+):)",
        names_no_host,
    ),
    # Adapter names in the output of InfiniBand tools contain the host name.
    Rule(
        ("hca-", " mlx5_"),
        "[host]",
        r"(?<=[\"'])",
        rf"{_LETTERED}(?= (?:HCA-|mlx5_)\d)",
        names_no_host,
    ),
    Rule(
        ("machine ",),
        "[host]",
        r"\bmachine\s{1,20}",
        rf"{_LETTERED}(?=\s{{1,20}}login\s{{1,20}}\S{{1,200}}\s{{1,20}}(?:account|password)\s)",
        names_no_host,
    ),
)

PLACE_RULES = (Group(_PLACES),)
