"""Names of hosts: those of a telling form, and any name at all where its place says that it is a host's."""

import re

from runner.evidence.harmless import names_no_host
from runner.evidence.rule import ALONE, END, IS, Group, Rule

NAMES_OF_HOSTS = (
    *("HOSTNAME", "HOST", "MASTER_ADDR", "MASTER_HOST", "NODE_NAME", "NODENAME", "SLURM_SUBMIT_HOST"),
    *("BatchHost", "NodeList", "NodeName", "NodeHostName", "AllocNode:Sid"),
)
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
# Written out in each case: a pattern that begins with plain words is found much more quickly.
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
# A key whose value is a host's name.
HOST_KEY = re.compile(rf"(?:{_SPOKEN})\Z|\A(?:{'|'.join(NAMES_OF_HOSTS)}|(?i:host))\Z")

# Ends of host names that mean nothing outside their own network.
_DOMAINS = (
    *(
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
    ),
)
# What makes a number after it an index or a measure, and what makes it a count: `gpu-util-90`, `multi-node-16`.
_INDEXES = "rank|ranks|id|ids|idx|index|mode|util|mem|memory|count|local|world|list|type|group"
_COUNTS = "multi|single|per|num|two|one|intra|inter|cross|nvidia|cuda|torch|max|min|sm"

_HOST = r"[A-Za-z0-9][\w-]{0,62}+(?:\.[A-Za-z0-9_][\w-]{0,62}+){0,8}+"
# Slurm's `node[01-08]`, and lists with ports.
_ITEM = rf"{_HOST}(?:\[[\d,-]{{1,200}}\][\w.-]{{0,40}}+)?"
_HOSTS = rf"(?:{_ITEM}(?::\d{{1,5}})?,(?=[A-Za-z0-9]))*+{_ITEM}"
_LETTERED = rf"(?=[A-Za-z]){_HOSTS}"
_Q = r"\\{0,2}[\"']?"
_IS_EQUAL = r"\\{0,2}[\"']?[ \t]{0,40}+=[ \t]{0,40}+(?:\\{0,2}[\"'])?+"
_IS_COLON = r"\\{0,2}[\"']?[ \t]{0,40}+:[ \t]{0,40}+(?:\\{0,2}[\"'])?+"
_NO_CODE = r"(?![\w(\[{.])"
# What stands before a dot in code, and the prefix of a string.
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


# (what to look for, a phrase that ends where the name begins)
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
    (
        "host: ",
        r"(?:Local|local|Remote|remote|Peer|peer|Target|target|Source|source|System|system) [Hh]ost:[ \t]{1,20}",
    ),
)
_CONNECTED = r"\b[Cc]onnect(?:ed|ing|ion)? (?:to|from) "
_TOLD = r"(?=:\d|\.?[ \t]*(?:[\r\n\"'\\]|\Z)|[ \t]\(|[ \t]port\b|[ \t](?:closed|refused|reset|timed)|['\"])"

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
    # Options of launchers, and shells of other hosts.
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
        rf"|node-ip-address|dist-init-addr|head(?:-node|-addr)?|address|server|exclude)[ \t=]{{1,4}}{_Q}",
        _HOSTS,
        names_no_host,
    ),
    Rule(
        ("mpirun", "mpiexec", "pdsh", "clush", "srun"),
        "[host]",
        rf"\b(?:mpirun|mpiexec|pdsh|clush|srun|prun)\b[^\n|;&]{{0,200}}?[ \t](?:-H|-w)[ \t=]{{1,4}}{_Q}",
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
    # What programs say of connections.
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
    ),
    # Addresses of services: a port, or a name without a dot, is no page of the public net.
    Rule(
        ("://",),
        "[host]",
        r"://(?:\[credentials\]@)?",
        rf"(?:{_HOST}(?=:\d)|[A-Za-z0-9][\w-]{{0,62}}+(?![\w.:@-]))",
        _names_no_server,
    ),
    # Names of fields, in any notation. What code says there is no name: an attribute, a call, an index, `a_variable`.
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
    # The shorter words, where they are a field of a header, of JSON, of Python's own form, or of `scontrol`.
    Rule(
        ("host", "nodes="),
        "[host]",
        rf"(?<![A-Za-z0-9_-])(?:Host: |host[ ]?=[ ]?[\"']?|(?<=[\"'])[Hh]ost(?:\\{{0,2}}[\"']){IS})|^host(?==){IS}"
        r"|(?<![A-Za-z0-9_-])Nodes=",
        rf"{_LETTERED}{_NO_CODE}",
        _names_no_field,
    ),
    Rule(("instance=",), "[host]", rf"\binstance={_Q}", rf"{_LETTERED}(?=:\d)", names_no_host),
    # Logs of the system: a date, the host, who says it.
    Rule(
        ("kernel:", "]:", "systemd:", "sshd:", "slurmd:", "nvidia-"),
        "[host]",
        rf"(?:{_MONTH} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{{1,9}})?|\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,]{{0,10}}"
        r"(?:Z|[+-]\d\d:?\d\d)) ",
        rf"(?=[A-Za-z]){_HOST}"
        r"(?= (?:kernel|[\w./()@-]{1,60}+\[\d{1,9}\]|systemd|sshd|slurmd|nvidia-[a-z-]{1,30}+):)",
        names_no_host,
    ),
    # Adapters in the lists of InfiniBand's tools carry the name of their host.
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

FORM_RULES = (
    Rule(
        tuple(f".{domain}" for domain in _DOMAINS),
        "[host]",
        "",
        rf"(?<![\w.-])(?!threading\.)(?:[A-Za-z0-9_][\w-]{{0,62}}+\.){{1,8}}(?:{'|'.join(map(re.escape, _DOMAINS))})"
        r"(?![\w(-]|\.\w)",
    ),
    # Every line of NCCL's log begins with the host.
    Rule(
        (" nccl ",),
        "[host]",
        "",
        r"(?<![\w.\]-])[\w.-]{1,80}+(?=:\d{1,9}:\d{1,9} (?:\[\d{1,3}\] )?(?:[\w./]{1,60}:\d{1,6} )?NCCL )",
    ),
    Rule(
        tuple(f"{name.lower()}=" for name in (*NAMES_OF_HOSTS, "NODELIST", "NODENAME")),
        "[host]",
        rf"(?<![A-Za-z0-9_])(?:SLURM\w{{0,20}}NODE(?:LIST|NAME)|{'|'.join(NAMES_OF_HOSTS)})=[\"']?",
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
        re.compile(r"(?:dgx|hgx|node|compute|login|host|rack|nid|gpu|[bh]\d00)[a-z0-9-]{0,20}\d"),
        "[host]",
        r"(?<![\w.\[-])",
        rf"(?!node-[0-9a-f]{{6}}(?![\w-]))(?!(?i:\w{{1,12}}-(?:{_INDEXES})|(?:{_COUNTS}))-)"
        r"(?:(?i:dgx|hgx)-?\d{1,5}|(?i:node|compute|login|host|nid)-?\d{2,6}|(?i:gpu)-?0\d{1,4}"
        r"|(?i:gpu|compute|rack|node)-[a-z]{1,12}\d{0,4}-\d{1,5}"
        r"|(?i:[a-z]{1,12}\d{0,4}-)(?i:node|gpu|dgx|hgx|compute|[bh]\d00)-?\d{1,5}"
        r"|(?i:rack)\d{1,4}-(?i:[a-z]{1,8}\d{1,4}))"
        r"(?:\.[A-Za-z][\w-]{0,62}){0,6}(?![\w-]|\.\w)",
    ),
    # Pods of Kubernetes: the name of a set, its hash, and five characters of Kubernetes's own alphabet.
    Rule(
        re.compile(r"-[0-9a-z]{8,10}-[0-9a-z]{5}(?![\w-])"),
        "[host]",
        r"(?<![\w.-])",
        r"[a-z][a-z0-9]{0,40}+(?:-[a-z0-9]{1,40}+){0,8}?"
        r"-(?=[a-z]{0,9}\d)[bcdf-hj-np-tv-xz0-9]{8,10}-[bcdf-hj-np-tv-xz2-9]{5}(?![\w-])",
    ),
    # `uname -a`.
    Rule(
        ("linux ",),
        "[host]",
        r"(?<![A-Za-z])Linux ",
        r"(?!version\b)[A-Za-z][\w.-]{0,80}+(?= \d{1,2}\.\d{1,3}[.-])",
    ),
)
IP_HOST = Rule(
    ("ip-",), "[host]", "", rf"{ALONE}ip-\d{{1,3}}(?:-\d{{1,3}}){{3}}(?:\.[\w-]{{1,63}}){{0,8}}{END}"
)
